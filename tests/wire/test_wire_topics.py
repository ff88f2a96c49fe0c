"""Topic names: made and read back, and what may be part of them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dsi_mqtt.core.node import Leader
from dsi_mqtt.errors import ConfigError
from dsi_mqtt.wire.topics import ROOT, Topic, Topics, check_device, check_name

TOPICS = Topics()
every_topic = pytest.mark.parametrize("topic", TOPICS.all().values(), ids=TOPICS.all())

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", fullmatch=True)
DEVICES = st.text(min_size=1, max_size=128).filter(
    lambda name: name.isprintable() and not set(name) & set("/+#")
)


def variables(topic: Topic[Any]) -> list[str]:
    return re.findall(r"\{(\w+)\}", topic.pattern)


def matches(topic_filter: str, name: str) -> bool:
    """Whether a broker hands a topic to this filter (no multi-level wildcards)."""
    wanted, levels = topic_filter.split("/"), name.split("/")
    return len(wanted) == len(levels) and all(
        want in ("+", level) for want, level in zip(wanted, levels, strict=True)
    )


@every_topic
@given(data=st.data())
def test_parts_undo_name_and_the_filter_matches_it(topic: Topic[Any], data: st.DataObject) -> None:
    kinds = {name: DEVICES if name == "device" else NAMES for name in variables(topic)}
    parts = data.draw(st.fixed_dictionaries(kinds))
    name = topic.name(**parts)
    assert topic.parts(name) == parts
    assert matches(topic.filter(), name)
    assert matches(topic.filter(**parts), name)
    assert len(name.split("/")) == len(topic.pattern.split("/"))


@given(data=st.data())
def test_a_name_belongs_to_one_kind_of_topic_only(data: st.DataObject) -> None:
    topic = data.draw(st.sampled_from(list(TOPICS.all().values())))
    name = topic.name(**{part: data.draw(NAMES) for part in variables(topic)})
    assert [other for other in TOPICS.all().values() if other.parts(name) is not None] == [topic]


@given(st.text(max_size=60))
def test_foreign_topics_have_no_parts(name: str) -> None:
    assume(not name.startswith(ROOT))
    assert all(topic.parts(name) is None for topic in TOPICS.all().values())


@given(st.lists(st.text("abz0-_ .ü", min_size=1, max_size=5), min_size=1, max_size=4))
def test_another_root_moves_every_topic(levels: list[str]) -> None:
    root = "/".join(levels)
    for name, topic in Topics(root).all().items():
        assert topic.pattern == root + TOPICS.all()[name].pattern.removeprefix(ROOT)


@pytest.mark.parametrize(
    "root", ["", "/", "a/", "/a", "a//b", "a/+", "#", "a\0", "{node}", "a/}", "$SYS", "$share/g"]
)
def test_a_root_that_would_make_other_topics_is_refused(root: str) -> None:
    with pytest.raises(ConfigError, match="topic root"):
        Topics(root)


def test_answers_lie_below_the_device_and_results_below_the_answers() -> None:
    own = TOPICS.answers("hazards", "car-7")
    assert own == "dsi/v1/deploy/hazards/out/car-7/"
    assert TOPICS.result.name(deployment="hazards", device="car-7").startswith(own)


def test_control_messages_are_typed_and_others_say_that_they_are_none() -> None:
    assert TOPICS.leader.payload.decode(b'{"term":1,"nonce":"a","beat":2}') == Leader(1, "a", 2)
    with pytest.raises(TypeError, match="no control message"):
        _ = TOPICS.input.payload


def test_what_is_retained_is_acknowledged() -> None:
    assert all(topic.qos == 1 for topic in TOPICS.all().values() if topic.retain)


@given(NAMES)
def test_names_are_accepted(name: str) -> None:
    assert check_name(name, "node") == name


@pytest.mark.parametrize("name", ["", "-a", ".a", "a b", "a/b", "a+", "#", "ü", "a\n", "n" * 65])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"node: .* is no name"):
        check_name(name, "node")


@given(DEVICES)
def test_a_device_may_be_any_one_level(name: str) -> None:
    assert check_device(name) == name


@pytest.mark.parametrize("name", ["", "a/b", "+", "#", "a\0", "a\n", "\ud800", "d" * 129])
def test_what_is_no_device_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="device: "):
        check_device(name)
