"""What the demo says of a gateway that died: who took over, and how long answers paused."""

from __future__ import annotations

import pytest

from dsi_mqtt.cli.demo_outcome import Answers, heirs
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
