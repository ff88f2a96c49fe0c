"""Faults in a standing system of real processes, and whether it kept what is promised.

`trials` says which faults there are and for how long each is tried; `ledger` is told of every
input, answer and table, and judges. Around these, which are pure: `load` and `plain` ask, `watcher`
reads along, `faults` injects, `running` goes through the trials, and `outcome` is what came of it.
"""
