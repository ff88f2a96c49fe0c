"""Topics and filters, against a second, slower definition."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsi_mqtt.transport.topics import check_filter, check_topic, matches

NAMES = ("", "a", "$a")
LEVELS = st.sampled_from(NAMES)
TOPICS = st.lists(LEVELS, min_size=1, max_size=4).map("/".join).filter(bool)
FILTERS = (
    st.tuples(
        st.lists(st.one_of(LEVELS, st.just("+")), max_size=4),
        st.sampled_from([[], ["#"]]),
    )
    .map(lambda parts: "/".join([*parts[0], *parts[1]]))
    .filter(bool)
)


def expansions(topic_filter: str, depth: int) -> set[tuple[str, ...]]:
    """Every topic of at most `depth` levels that the filter names, one by one."""
    names: set[tuple[str, ...]] = {()}
    for level in topic_filter.split("/"):
        if level == "#":
            grown = names
            for _ in range(depth):
                grown = {(*name, one) for name in grown for one in NAMES}
                names = names | grown
            break
        choices = NAMES if level == "+" else (level,)
        names = {(*name, one) for name in names for one in choices}
    if topic_filter[0] in "+#":
        names = {name for name in names if not "/".join(name).startswith("$")}
    return {name for name in names if len(name) <= depth and "/".join(name)}


@given(FILTERS, TOPICS)
def test_matching_agrees_with_writing_every_topic_out(topic_filter: str, topic: str) -> None:
    levels = tuple(topic.split("/"))
    assert matches(check_filter(topic_filter), check_topic(topic)) == (
        levels in expansions(topic_filter, len(levels))
    )


@pytest.mark.parametrize(
    ("topic_filter", "topic", "expected"),
    [
        ("sport/tennis/player1/#", "sport/tennis/player1", True),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", True),
        ("sport/#", "sport", True),
        ("#", "a/b", True),
        ("sport/tennis/+", "sport/tennis/player1/ranking", False),
        ("sport/+", "sport", False),
        ("sport/+", "sport/", True),
        ("+/+", "/finance", True),
        ("/+", "/finance", True),
        ("+", "/finance", False),
        ("#", "$SYS/broker", False),
        ("+/broker", "$SYS/broker", False),
        ("$SYS/#", "$SYS/broker", True),
    ],
)
def test_the_examples_of_the_standard(topic_filter: str, topic: str, expected: bool) -> None:
    """MQTT 5, sections 4.7.1 and 4.7.2."""
    assert matches(topic_filter, topic) == expected


@pytest.mark.parametrize("text", ["", "a\0", "\ud800", "é" * 40_000])
def test_what_is_neither_topic_nor_filter(text: str) -> None:
    with pytest.raises(ValueError, match=r"^topic "):
        check_topic(text)
    with pytest.raises(ValueError, match=r"^topic filter "):
        check_filter(text)


def test_the_longest_topic_is_one() -> None:
    assert check_topic("a" * 65_535)
