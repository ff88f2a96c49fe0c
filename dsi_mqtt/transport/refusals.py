"""What is refused, in one sentence each, whichever connection meets it."""

from __future__ import annotations

import errno
from typing import Final

from dsi_mqtt.errors import BrokerRefusedError, BrokerUnreachableError, TooLargeError
from dsi_mqtt.transport.base import BrokerLimits, Message
from dsi_mqtt.transport.topics import check_topic

FAILURE: Final = 0x80  # MQTT 5 reason codes from here on are errors


def check_message(message: Message, limits: BrokerLimits, broker: str) -> None:
    """Raises ValueError for a topic or QoS that is none.

    Raises BrokerRefusedError for what this broker does not offer.
    """
    check_topic(message.topic)
    if message.qos not in {0, 1}:
        raise ValueError(f"QoS {message.qos} to {message.topic}: use 0 or 1")
    if message.qos > limits.max_qos:
        raise BrokerRefusedError(f"broker {broker} offers no QoS 1; use another broker")
    if message.retain and not limits.retain_available:
        raise BrokerRefusedError(f"broker {broker} retains no messages; use another broker")


def check_without_answer(message: Message) -> None:
    """Raises ValueError for a message whose acknowledgement somebody must wait for."""
    if message.qos:
        raise ValueError("publish_soon is for QoS 0; await publish for an acknowledgement")


def check_size(message: Message, size: int, limits: BrokerLimits, broker: str) -> None:
    """Raises TooLargeError when a packet of `size` bytes is more than the broker takes."""
    if limits.max_packet_size is not None and size > limits.max_packet_size:
        raise TooLargeError(
            f"a message of {len(message.payload)} bytes to {message.topic} exceeds the packet "
            f"limit of broker {broker}, {limits.max_packet_size} bytes; send it in chunks"
        )


def check_reason(code: int, name: str, broker: str, what: str) -> None:
    """Raises BrokerRefusedError for a reason code of failure; `name` is the code's in words."""
    if code >= FAILURE:
        raise BrokerRefusedError(f"broker {broker} refuses {what}: {name}")


def check_granted(code: int, qos: int, broker: str, topic_filter: str) -> None:
    """Raises BrokerRefusedError when a subscription was granted below the QoS it needs."""
    if code < qos:
        raise BrokerRefusedError(
            f"broker {broker} grants {topic_filter!r} at QoS {code} only, {qos} is needed; "
            "use another broker"
        )


def unreachable(broker: str, error: OSError) -> BrokerUnreachableError:
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        return BrokerUnreachableError(
            f"this process may open no connection to {broker}, for it has as many files open as it "
            "may; raise the limit: ulimit -n"
        )
    reason = "it timed out" if isinstance(error, TimeoutError) else error.strerror or str(error)
    return BrokerUnreachableError(
        f"no MQTT broker answers at {broker} ({reason}); start it or correct its URL"
    )
