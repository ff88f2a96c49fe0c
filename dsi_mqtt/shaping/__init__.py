"""Links that carry no more than they are told to, in front of real brokers on this machine.

`clockwork` decides which bytes are at the other end when; `link` is the TCP relay around it.
"""
