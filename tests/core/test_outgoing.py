"""Copies that wait for a node's way out: few bytes, none for long, none twice."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from dsi_mqtt.core.activation import Row, Tensor
from dsi_mqtt.core.copies import PATIENCE_S
from dsi_mqtt.core.effects import Transmit
from dsi_mqtt.core.message import Activation, Copy, EdgeMark, Header
from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.core.outgoing import WAITING_BYTES_MAX, OutgoingCopies
from dsi_mqtt.core.sizes import KIB
from tests.core.build import NAME, make_table

OLD, NEW = make_table(epoch=1), make_table(epoch=2)
UNITS = UnitRange(3, 6)


def copy(session: int, *, first: int = 0, units: UnitRange = UNITS, kib: int = 256) -> Transmit:
    header = Header(
        "state", NAME, NEW.stamp, "s1", "s0", first.to_bytes(16, "big"), 1, "a",
        rows=(Row(f"a1.{session}", first, 10, 1),),
        edge=EdgeMark("b1", "c1", 0, 0),
        copy=Copy(units, NEW.stamp, "s0"),
    )  # fmt: skip
    data = bytes(kib * KIB)
    return Transmit("c", Activation(header, (Tensor("state", "uint8", (len(data),), data),)))


def taken(outgoing: OutgoingCopies, now: float = 0.0) -> list[Transmit]:
    found = []
    while (one := outgoing.take(now)) is not None:
        found.append(one.copy)
    return found


def test_they_go_in_the_order_in_which_they_came() -> None:
    outgoing, copies = OutgoingCopies(), [copy(n) for n in range(3)]
    for one in copies:
        assert not outgoing.put(one, 0.0)
    assert taken(outgoing) == copies


def test_what_is_asked_for_again_waits_once() -> None:
    outgoing, again = OutgoingCopies(), copy(1, first=5)
    for one in (copy(1), copy(2), copy(1, units=UnitRange(3, 4)), again):
        outgoing.put(one, 0.0)
    assert taken(outgoing) == [copy(2), copy(1, units=UnitRange(3, 4)), again]


def test_what_no_door_waits_for_goes_nowhere() -> None:
    outgoing = OutgoingCopies()
    outgoing.put(copy(1), 0.0)
    outgoing.put(copy(2), 1.0)
    assert taken(outgoing, PATIENCE_S) == [copy(2)]
    outgoing.put(copy(3), 5.0)
    one = outgoing.take(6.0)
    assert one is not None
    assert one.until == 5.0 + PATIENCE_S


def test_what_is_too_much_is_refused_to_its_door() -> None:
    outgoing = OutgoingCopies()
    most = WAITING_BYTES_MAX // (256 * KIB)
    for number in range(most):
        assert not outgoing.put(copy(number), 0.0)
    (told,) = outgoing.put(copy(most), 0.0)
    header = told.activation.header
    assert (told.receiver, header.kind, header.source, header.target) == (
        "a",
        "stale",
        "s1",
        "door",
    )
    assert header.request == copy(most).activation.header.request
    assert not outgoing.put(copy(0, first=5), 0.0), "it takes the place of another"
    assert not outgoing.put(copy(most), PATIENCE_S), "the others are gone by now"
    assert taken(outgoing, PATIENCE_S) == [copy(most)]


def test_a_single_one_may_be_large() -> None:
    outgoing, large = OutgoingCopies(), copy(1, kib=2 * WAITING_BYTES_MAX // KIB)
    assert not outgoing.put(large, 0.0)
    assert outgoing.put(copy(2), 0.0)
    assert taken(outgoing) == [large]


def test_sessions_of_another_model_are_others() -> None:
    outgoing, one = OutgoingCopies(), copy(1)
    header = replace(one.activation.header, deployment="other")
    other = replace(one, activation=replace(one.activation, header=header))
    outgoing.put(one, 0.0)
    outgoing.put(other, 0.0)
    assert taken(outgoing) == [one, other]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 40),
            st.sampled_from([1, 256, 3000]),
            st.floats(0.0, 1.0),
            st.booleans(),
        )
    )
)
def test_whatever_is_asked_little_waits_and_not_for_long(
    asked: list[tuple[int, int, float, bool]],
) -> None:
    outgoing, now = OutgoingCopies(), 0.0
    came: dict[int, float] = {}
    waits: set[int] = set()
    for number, (session, kib, pause_s, takes) in enumerate(asked):
        now += pause_s
        one = copy(session, first=number, kib=kib)
        waits.discard(session)
        if not outgoing.put(one, now):
            waits.add(session)
            came[number] = now
        assert len(outgoing) <= len(waits)
        if takes and (gone := outgoing.take(now)) is not None:
            (row,) = gone.copy.activation.header.rows
            assert now - came[row.position] < PATIENCE_S
            waits.remove(int(row.session.removeprefix("a1.")))
    left = sum(one.activation.nbytes for one in taken(outgoing, now))
    assert left <= max(WAITING_BYTES_MAX, 3000 * KIB)
