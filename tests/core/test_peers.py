"""Who lives: what counts as proof and as hint, and how much is remembered."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from dsi_mqtt.core.node import DoorReport
from dsi_mqtt.core.peers import Peers
from dsi_mqtt.core.table import Stamp
from tests.core.build import NAME, A, B, make_status

STAMP = Stamp(1, "leader", 1)


def test_a_node_whose_status_is_removed_is_as_one_never_heard_of() -> None:
    peers = Peers()
    peers.heard(make_status(("b", "b2"), oldest=STAMP, ingress_open=True))
    assert peers.is_replaced(B)
    assert peers.has_ingress(NAME)
    peers.removed("b")
    assert not peers.is_missing(B)
    assert not peers.has_ingress(NAME)
    assert peers.oldest(NAME) == {}
    peers.removed("b")


def test_a_life_that_was_heard_of_proves_an_earlier_one_dead_also_when_it_is_over() -> None:
    peers = Peers()
    peers.heard(make_status(("b", "b2")))
    peers.heard(make_status(("b", "b2"), "offline"))
    assert peers.is_replaced(B)
    peers.heard(make_status(B))
    assert not peers.is_missing(B), "it speaks"


def test_a_will_of_a_life_never_heard_of_proves_nothing() -> None:
    peers = Peers()
    peers.heard(make_status(("b", "b2"), "offline"))
    assert not peers.is_replaced(B)


@given(
    st.lists(st.tuples(st.integers(0, 12), st.sampled_from("xyz"), st.integers(0, 7)), max_size=60)
)
def test_nodes_and_their_doors_are_bounded_and_the_last_heard_is_known(
    words: list[tuple[int, str, int]],
) -> None:
    peers = Peers(words_max=8)
    for node, incarnation, doors in words:
        reports = tuple(DoorReport(f"d{n}", STAMP, ingress_open=True) for n in range(doors))
        peers.heard(replace(make_status((f"n{node}", incarnation)), doors=reports))
        assert len(peers) + sum(len(peers.oldest(f"d{n}")) for n in range(7)) <= 8
        assert not peers.is_missing((f"n{node}", incarnation))
        assert peers.is_replaced((f"n{node}", "another"))
        assert peers.has_ingress("d0") or not doors


def test_the_longest_unheard_of_is_forgotten_first() -> None:
    peers = Peers(words_max=2)
    for member in (A, B, A, ("c", "c1")):
        peers.heard(make_status(member))
    assert [peers.is_replaced((node, "another")) for node in "abc"] == [True, False, True]
