"""What the demo says of a gateway that died: who took over, and how long answers paused."""

from __future__ import annotations

import pytest

from dsi_mqtt.cli.demo_outcome import Answers, Befallen, heirs
from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.core.table import Replica, Segment, Table


def chain(*parts: tuple[int, int, str]) -> Table:
    segments = tuple(
        Segment(f"s{i}", UnitRange(start, stop), "float32", (Replica(node, "1"),))
        for i, (start, stop, node) in enumerate(parts)
    )
    return Table("hazards", 1, "n", 1, "serving", None, "", None, None, segments)


def test_who_took_over() -> None:
    before = chain((0, 3, "city"), (3, 5, "north"), (5, 8, "south"))
    assert heirs(before, chain((0, 3, "spare"), (3, 5, "north"), (5, 8, "south")), "city") == (
        "spare",
    )
    assert heirs(before, chain((0, 4, "city"), (4, 8, "south")), "north") == ("city", "south")
    assert heirs(before, chain((0, 8, "spare")), "nobody") == ()


def test_the_longest_pause_between_two_results() -> None:
    assert Answers(came_s=[1.0, 1.5, 4.0, 4.1]).pause_ms == pytest.approx(2500)
    assert Answers(came_s=[1.0]).pause_ms == 0.0
    assert Answers().pause_ms == 0.0


def test_pauses_are_told_apart_by_when_they_ended() -> None:
    answers = Answers(came_s=[1.0, 1.5, 4.0, 4.1, 9.0])
    assert answers.pause_between_ms(1.5, 4.1) == pytest.approx(2500)
    assert answers.pause_between_ms(4.1, 20.0) == pytest.approx(4900)
    assert answers.pause_between_ms(9.0, 20.0) == 0.0


def test_a_fault_is_recovered_from_at_the_first_result_behind_a_table_without_its_node() -> None:
    before = chain((0, 3, "city"), (3, 5, "north"), (5, 8, "south"))
    befallen = Befallen("worker_kill", "north", 10, 5.0, before)
    befallen.decides("d-2", "remap", "node north is gone")
    befallen.decides("d-3", "remap", "a later one")
    assert (befallen.decision, befallen.reason) == ("d-2", "node north is gone")
    assert not befallen.recovers(5.5)
    befallen.serves(before, 6.0)
    assert not befallen.recovers(6.1)
    befallen.serves(chain((0, 3, "city"), (3, 5, "east"), (5, 8, "south")), 6.5)
    assert befallen.recovers(6.6)
    assert not befallen.recovers(6.7)
    assert (befallen.served_at, befallen.recovered_at) == (6.5, 6.6)
    assert befallen.heirs == ("east",)


def test_nobody_takes_over_where_no_table_follows() -> None:
    assert Befallen("link_throttle", "north", 1, 0.0, chain((0, 8, "north"))).heirs == ()
