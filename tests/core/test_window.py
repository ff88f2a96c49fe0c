"""Amounts within the last so many seconds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dsi_mqtt.core.window import Window


@given(st.lists(st.tuples(st.floats(0, 2), st.integers(0, 100)), max_size=60))
def test_the_total_is_that_of_the_half_open_span(added: list[tuple[float, int]]) -> None:
    window, now, kept = Window(1.0), 0.0, list[tuple[float, int]]()
    for later, amount in added:
        now += later
        window.add(amount, now)
        kept.append((now, amount))
        assert window.total(now) == sum(a for at, a in kept if at > now - 1.0)
    assert window.total(now + 1.5) == 0


def test_what_is_too_old_does_not_pile_up_where_nobody_asks() -> None:
    window = Window(0.5)
    for number in range(10_000):
        window.add(1, number * 0.1)
    assert len(window._entries) <= 6
