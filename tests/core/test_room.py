"""What caches take: counted as stores grow, bounded at admission, kept free in planning."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from dsi_mqtt.core.deployment import Generation
from dsi_mqtt.core.model import ModelGraph, Unit, UnitRange, Vocabulary
from dsi_mqtt.core.room import (
    ROOM_FIRST,
    HeldRoom,
    NodeRoom,
    Tally,
    allotted,
    cache_bytes,
    held_room,
    table_rooms,
)
from dsi_mqtt.core.sizes import MIB
from tests.core.build import A, B, make_spec, make_table

STATES = (0, 100, 300, 200, 0)
GRAPH = ModelGraph(
    "m1",
    "fake",
    tuple(Unit(f"u{i}", 10, 1.0, 4, state) for i, state in enumerate(STATES)),
    vocabulary=Vocabulary(2048, 100),
)
SPEC = replace(make_spec(), kind="generation", generation=Generation(context=2048, sessions_max=4))


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_a_cache_is_allotted_what_it_holds_and_less_than_twice_that(held: int, more: int) -> None:
    context = held + more
    room = allotted(held, context)
    assert held <= room <= max(min(ROOM_FIRST, context), 2 * held - 1)
    assert room <= context
    assert allotted(room, context) == room


@given(st.lists(st.integers(1, 2048), min_size=1, max_size=20))
def test_caches_that_grow_one_after_the_other_stay_within_what_is_counted(ends: list[int]) -> None:
    """Each grows from nothing, a position at a time, layer by layer."""
    counted = NodeRoom(600, 300).nbytes(allotted(end, 2048) for end in ends)
    there = 0
    for end in ends:
        room = 0
        for held in range(1, end + 1):
            grown = allotted(held, 2048)
            if grown > room:
                for layer in (100, 300, 200):
                    assert there + grown * layer <= counted, "while it grows"
                    there += (grown - room) * layer
                room = grown
    assert there <= counted


def test_a_node_needs_what_its_own_units_keep() -> None:
    table = make_table((A, (0, 2)), (B, (2, 3)), (A, (3, 5)))
    assert table_rooms(GRAPH, table) == [NodeRoom(300, 200), NodeRoom(300, 300)]


def test_what_caches_may_take_is_bounded_by_the_sessions_and_by_the_limit() -> None:
    assert cache_bytes(make_spec(), GRAPH) == 0
    assert cache_bytes(SPEC, GRAPH) == 2048 * (8 * 600 + 300)
    many = replace(SPEC, generation=Generation(context=2048, sessions_max=512, kv_mib_max=3))
    assert cache_bytes(many, GRAPH) == 3 * MIB


def test_a_node_allows_twice_what_a_door_lets_in_and_more_where_it_has_more_than_then() -> None:
    before = make_table((A, (0, 2)), (B, (2, 3)), (A, (3, 5)), epoch=1)  # 300 bytes a position each
    after = make_table((B, (0, 5)), epoch=2)
    one = replace(SPEC, generation=Generation(context=1024, sessions_max=4, kv_mib_max=3))
    room = held_room(one, GRAPH, [UnitRange(2, 3)], [before])
    assert room == HeldRoom(1024, 32, 6 * MIB, {UnitRange(2, 3): NodeRoom(300, 300)})
    whole = {UnitRange(0, 5): NodeRoom(600, 300)}
    assert held_room(one, GRAPH, whole, [after]) == HeldRoom(1024, 32, 6 * MIB, whole)
    assert held_room(one, GRAPH, whole, [before, after]) == HeldRoom(1024, 32, 12 * MIB, whole)
    nowhere = replace(after, segments=(), state="unavailable")
    assert held_room(one, GRAPH, whole, [nowhere]) == HeldRoom(1024, 32, 6 * MIB, whole)
    assert held_room(make_spec(), GRAPH, whole, [after]) is None


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_rooms_are_counted_in_all_segments_of_a_node(held: list[int]) -> None:
    parts = {UnitRange(0, 2): NodeRoom(2, 1), UnitRange(3, 4): NodeRoom(5, 5)}
    rooms = [{UnitRange(0, 2): most, UnitRange(3, 4): most, UnitRange(7, 9): 99} for most in held]
    needed = NodeRoom(7, 5).nbytes(held)
    assert HeldRoom(99, 30, needed, parts).allows(Tally(rooms))
    assert not HeldRoom(99, 30, needed - 1, parts).allows(Tally(rooms))
    assert not HeldRoom(99, len(held) - 1, needed, parts).allows(Tally(rooms))
