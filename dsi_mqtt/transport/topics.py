"""Topic names and filters as MQTT 5 defines them (sections 4.7.1 to 4.7.3)."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

LENGTH_MAX: Final = 65_535  # bytes of UTF-8, the length field has two bytes


@lru_cache(maxsize=4096)
def check_topic(topic: str) -> str:
    """`topic`, if messages can be published to it; else raises ValueError.

    Cached, for the hot path publishes to a handful of topics over and over.
    """
    _check_text("topic", topic)
    if "+" in topic or "#" in topic:
        raise ValueError(f"topic {topic!r} holds a wildcard; publish to one topic")
    return topic


@lru_cache(maxsize=1024)
def check_filter(topic_filter: str) -> str:
    """`topic_filter`, if it can be subscribed to; else raises ValueError."""
    _check_text("topic filter", topic_filter)
    levels = topic_filter.split("/")
    for index, level in enumerate(levels):
        if "#" in level and (level != "#" or index != len(levels) - 1):
            raise ValueError(f"topic filter {topic_filter!r}: '#' must be the whole last level")
        if "+" in level and level != "+":
            raise ValueError(f"topic filter {topic_filter!r}: '+' must be a whole level")
    return topic_filter


def matches(topic_filter: str, topic: str) -> bool:
    """Whether a subscription to `topic_filter` receives `topic`; both already checked.

    A first level that begins with `$` is matched by no wildcard.
    """
    if topic.startswith("$") and topic_filter[0] in "+#":
        return False
    wanted, levels = topic_filter.split("/"), topic.split("/")
    for index, level in enumerate(wanted):
        if level == "#":
            return True
        if index == len(levels) or level not in {"+", levels[index]}:
            return False
    return len(wanted) == len(levels)


def _check_text(what: str, text: str) -> None:
    if not text:
        raise ValueError(f"{what} is empty")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ValueError(f"{what} {text!r} is not valid Unicode") from None
    if size > LENGTH_MAX or "\0" in text:
        raise ValueError(f"{what} {text[:40]!r} is too long or holds a NUL")
