"""A link: messages one behind the other, at the rate that the trace has then."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsi_mqtt.sim.links import Disturbance, Figures, Link
from dsi_mqtt.sim.traces import Trace

FIGURES = Figures(8.0, 80.0, 20.0)  # 1 MB/s up, 10 MB/s down
MB = 1_000_000


def test_a_message_waits_for_those_before_it_in_its_own_direction() -> None:
    link = Link(FIGURES)
    assert link.up.send(MB, 5.0).arrives == pytest.approx(6.01)
    assert link.up.send(MB, 5.5).arrives == pytest.approx(7.01)
    assert link.down.send(MB, 5.5).arrives == pytest.approx(5.61)
    assert link.up.send(MB, 9.0).arrives == pytest.approx(10.01)
    assert link.up.busy_s == pytest.approx(3.0)


def test_what_goes_aside_waits_for_nothing_and_delays_nothing() -> None:
    link = Link(FIGURES)
    link.up.send(MB, 0.0)
    assert link.up.send_aside(1000, 0.0) == pytest.approx(0.011)
    assert link.up.send(MB, 0.0).arrives == pytest.approx(2.01)
    assert (link.up.nbytes, link.up.control_bytes) == (2 * MB, 1000)


def test_the_rate_follows_the_trace_which_begins_anew_behind_its_end() -> None:
    link = Link(FIGURES, Trace((8.0, 4.0), (20.0, 40.0)))
    assert link.up.send(MB, 0.5).arrives == pytest.approx(1.5 + 0.5 + 0.01 - 0.0)
    other = Link(FIGURES, Trace((8.0, 4.0), (20.0, 40.0)), offset_s=1)
    assert other.down.send(MB, 0.0).arrives == pytest.approx(1.5 + 0.02)
    assert other.down.send(MB, 1.5).arrives == pytest.approx(1.5 + 0.5 + 1.0 + 0.01)


def test_nothing_leaves_while_a_link_is_cut_and_less_while_it_is_throttled() -> None:
    link = Link(FIGURES, disturbances=[Disturbance(1.0, 4.0, 0.0), Disturbance(5.0, 9.0, 0.5)])
    assert link.is_cut(1.0)
    assert not link.is_cut(4.0)
    assert link.up.send(MB, 0.5).arrives == pytest.approx(4.51)
    assert link.up.send(MB, 4.5).arrives == pytest.approx(6.01)
    assert link.up.send(MB, 8.0).arrives == pytest.approx(9.51)


@given(
    st.lists(st.tuples(st.floats(0.0, 2.0), st.integers(1, 10**6)), min_size=1, max_size=20),
    st.lists(st.floats(0.0, 20.0), min_size=1, max_size=5).filter(any),
)
def test_messages_arrive_in_their_order_and_no_faster_than_the_rate(
    messages: list[tuple[float, int]], rates: list[float]
) -> None:
    kept = [round(rate, 1) for rate in rates] + [1.0]
    link = Link(FIGURES, Trace(tuple(kept), tuple([10.0] * len(kept))))
    now = arrived = 0.0
    for pause, nbytes in messages:
        now += pause
        before, arrived = arrived, link.up.send(nbytes, now).arrives
        assert arrived >= max(before, now + 0.005)
        assert arrived - now >= nbytes * 8 / max(kept) / 1e6
    assert link.up.busy_s >= sum(nbytes for _, nbytes in messages) * 8 / max(kept) / 1e6 * 0.999
