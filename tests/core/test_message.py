"""Headers: what is written by hand for speed says what the plain way would."""

from __future__ import annotations

from dataclasses import fields, replace

from dsi_mqtt.core.activation import Row
from dsi_mqtt.core.generation import Sampling
from dsi_mqtt.core.message import Copy, Credit, EdgeMark, Failure, Header, HopStamp, Passed
from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.core.table import Stamp

FULL = Header(
    "request",
    "hazards",
    Stamp(3, "9d21", 17),
    "s0",
    "s1",
    bytes(range(16)),
    2,
    door="city",
    rows=(Row("session", 4, 2, 1),),
    budget_ms=900,
    trace="00-ab-cd-01",
    stamps=(HopStamp("s0", 1, 2, 3),),
    edge=EdgeMark("a", "b", 1, 1),
    credit=Credit("a", "b", 1, 1),
    failure=Failure("failed", "why"),
    sampling=(Sampling(0.5, 4, 0.9, 7),),
    copy=Copy(UnitRange(0, 1), Stamp(1, "n", 2), "s1"),
    lane=5,
    passed=Passed("cam", "d1", 9),
    recall=b"text",
)


def test_a_header_on_its_edge_keeps_all_else() -> None:
    mark = EdgeMark("8f3c", "11aa", 4096, 3)
    assert FULL.on_edge(mark, 250) == replace(FULL, edge=mark, budget_ms=250)
    # The comparison sees a forgotten field only where it differs from its default.
    defaults = Header("cancel", "", Stamp(0, "", 0), "", "")
    assert all(getattr(FULL, f.name) != getattr(defaults, f.name) for f in fields(Header))


def test_a_header_that_is_handed_on_keeps_all_else() -> None:
    stamp, sampling = HopStamp("s1", 4, 5, 6), (None,)
    onward = FULL.handed_on("done", "door", budget_ms=250, stamp=stamp, sampling=sampling)
    assert onward == replace(
        FULL,
        kind="done",
        source="s1",
        target="door",
        budget_ms=250,
        stamps=(*FULL.stamps, stamp),
        edge=None,
        sampling=sampling,
    )
