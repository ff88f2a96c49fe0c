"""Explanations as bytes: the newest decisions that there is room for, and none too many."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsi_mqtt.core.explaining import KEPT
from dsi_mqtt.core.explanation import (
    Deciding,
    Explanation,
    Explanations,
    Inputs,
    NodeFigures,
    Outline,
    Place,
    Rejected,
    Taken,
)
from dsi_mqtt.core.grounds import NODES_MAX
from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.errors import TooLargeError, WireError
from dsi_mqtt.wire.explanations import EXPLANATIONS_MAX
from dsi_mqtt.wire.topics import Topics
from tests.thoroughness import examples

CODEC = Topics().explanations.payload
NODE = NodeFigures("n" * 64, 1234.5, 1234.5, 12.345, 1.2345, 2**40, Taken(0.123, 0.456, 0.789))
CHAIN = Outline(
    "n" * 64, (Place(UnitRange(0, 3), "n" * 64),) * 8, 12.345, 23.456, 1.2, 34.5, 6, 789
)


def explanation(number: int, nodes: int) -> Explanation:
    told = Inputs(12.345, (NODE,) * nodes)
    return Explanation(
        f"d-{number}", 1, "keep", "w" * 200, told, CHAIN, CHAIN, (Rejected("found", "", CHAIN),)
    )


def document(*sizes: int) -> Explanations:
    told = tuple(explanation(i, nodes) for i, nodes in enumerate(sizes))
    return Explanations("9d21", 7, Deciding(1.0, 2.0, 3, 4), told)


@given(sizes=st.lists(st.integers(0, NODES_MAX), max_size=KEPT))
@settings(max_examples=examples(50))
def test_the_oldest_are_left_out_until_there_is_room(sizes: list[int]) -> None:
    whole = document(*sizes)
    payload = CODEC.encode(whole)
    assert len(payload) <= EXPLANATIONS_MAX
    read = CODEC.decode(payload)
    kept = len(read.explanations)
    assert read == replace(whole, explanations=whole.explanations[len(sizes) - kept :])
    if kept < len(sizes):
        another = CODEC.encode(replace(whole, explanations=(whole.explanations[0],)))
        assert kept
        assert len(payload) + len(another) > EXPLANATIONS_MAX - 20_000


def test_a_site_of_ten_nodes_has_all_of_its_explanations() -> None:
    short = replace(NODE, node="north-gw")
    chain = replace(CHAIN, door="north-gw", segments=(Place(UnitRange(0, 3), "north-gw"),) * 4)
    told = replace(
        explanation(0, 0),
        inputs=Inputs(1.0, (short,) * 10),
        present=chain,
        chosen=chain,
        rejected=(Rejected("found", "w" * 200, chain), Rejected("alone", "w" * 60)),
    )
    whole = replace(document(), explanations=(told,) * KEPT)
    assert len(CODEC.decode(CODEC.encode(whole)).explanations) == KEPT


def test_the_newest_alone_may_still_be_too_large() -> None:
    with pytest.raises(TooLargeError):
        CODEC.encode(document(2000))


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        (replace(explanation(0, 1), when=2**40), "explanations[0].when: 1099511627776 must be"),
        (replace(explanation(0, 1), took_ms=-1.0), "explanations[0].took_ms: -1.0 must be 0 or mo"),
        (
            replace(explanation(0, 1), inputs=Inputs(-1.0, ())),
            "explanations[0].inputs.rate_per_s: -1.0 must be 0 or more",
        ),
        (
            replace(
                explanation(0, 0), chosen=replace(CHAIN, segments=(Place(UnitRange(3, 3), "a"),))
            ),
            "explanations[0].chosen.segments[0].units: 3:3 holds no unit",
        ),
    ],
)
def test_figures_out_of_range_are_refused_by_name(changed: Explanation, field: str) -> None:
    payload = CODEC.encode(replace(document(), explanations=(changed,)))
    with pytest.raises(WireError, match="Explanations: ") as refused:
        CODEC.decode(payload)
    assert str(refused.value).startswith(f"Explanations: {field}")


def test_more_explanations_than_anybody_keeps_are_refused() -> None:
    one = replace(document(), explanations=(Explanation("d", 1, "keep", ""),) * (KEPT + 1))
    with pytest.raises(WireError, match="has 33 entries, at most 32 are read"):
        CODEC.decode(CODEC.encode(one))
