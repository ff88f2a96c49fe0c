"""How an orchestrator's tables have caches of sessions come to their new nodes."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import pytest

from dsi_mqtt.core.cadence import Cadence
from dsi_mqtt.core.decisions import Authority
from dsi_mqtt.core.deployment import Sla
from dsi_mqtt.core.draft import Draft
from dsi_mqtt.core.issuer import Issuer
from dsi_mqtt.core.membership import Membership
from dsi_mqtt.core.model import ModelGraph, UnitRange
from dsi_mqtt.core.node import LinkSample, Telemetry
from dsi_mqtt.core.outlook import Outlook
from dsi_mqtt.core.plan import PlannedSegment
from dsi_mqtt.core.sizes import MIB
from dsi_mqtt.core.table import Table, TableDocument, TransferMode
from tests.core.build import NAME
from tests.core.desk_generation import GRAPH as SMALL
from tests.core.desk_generation import spec
from tests.core.orchestra import Node
from tests.core.test_draft import PLAN

GRAPH = replace(SMALL, units=tuple(replace(unit, state_bytes=MIB) for unit in SMALL.units))
SPEC = replace(spec(), sla=Sla(prompt_tokens=100, new_tokens=100))
# A prompt of 150 positions takes 0.15 s.
CADENCE = Cadence(0.1, 0.1, 0.01, 0.01, 1.0, 1.0, 5.0, prompt_s=0.1)


class Office:
    """Makes one table after the other. links: in Mbit/s, of those that are slow."""

    def __init__(self, graph: ModelGraph = GRAPH, **links: float) -> None:
        members = Membership()
        for number, name in enumerate("abcd"):
            members.status_arrived(Node(name, f"{name}1").status(0.0), 0.0)
            rate = links.get(name, 10_000.0)
            link = LinkSample(rtt_ms=1.0, up_mbit_s=rate, down_mbit_s=rate)
            told = Telemetry(name, f"{name}1", number, 0.0, 0, 0, 0, None, link)
            members.telemetry_arrived(told, 0.0)
        self._graph = graph
        self._issuer = Issuer(NAME, Outlook(NAME, members))
        self._authority = Authority(1, "n", lambda: "secret", count(1), {})
        self._document: TableDocument | None = None

    def table(self, *last: str, cadence: Cadence = CADENCE) -> Table:
        """The last two units on these nodes, those before on a."""
        segments = (
            PlannedSegment(UnitRange(0, 4), "a", 0.01),
            PlannedSegment(UnitRange(4, 6), last[0], 0.01, tuple((name, 1.0) for name in last)),
        )
        plan = replace(
            PLAN, segments=segments, hops=(PLAN.hops[0], *PLAN.hops[2:]), cadence=cadence
        )
        draft = Draft(SPEC, self._graph, plan, "d", "why")
        made = self._issuer.table(self._document, draft, self._authority)
        self._document = TableDocument(replace(made, state="serving"))
        return made


def modes(table: Table) -> set[TransferMode]:
    return {transfer.mode for transfer in table.transfers}


@pytest.mark.parametrize(("mbit_s", "mode"), [(10_000.0, "copy"), (100.0, "recompute")])
def test_caches_are_copied_where_links_bear_it(mbit_s: float, mode: TransferMode) -> None:
    office = Office(b=mbit_s)
    assert modes(office.table("b")) == set()
    assert modes(office.table("c")) == {mode}


def test_a_replica_behind_a_slow_link_counts_though_another_stays() -> None:
    """Sessions of lane 0 stay with b; those of lane 1 leave d."""
    office = Office(d=100.0)
    before, after = office.table("b", "d"), office.table("b", "c")
    lanes = [[table.segments[1].replica(lane).node for lane in (0, 1)] for table in (before, after)]
    assert lanes == [["b", "d"], ["b", "c"]]
    assert modes(after) == {"recompute"}


@pytest.mark.parametrize(
    ("first_s", "prompt_s", "mode"), [(60.0, 0.1, "recompute"), (90.0, 60.0, "copy")]
)
def test_how_long_texts_wait_for_each_other_makes_computing_no_slower(
    first_s: float, prompt_s: float, mode: TransferMode
) -> None:
    loaded = replace(CADENCE, first_s=first_s, first_within_s=2 * first_s, prompt_s=prompt_s)
    office = Office(b=100.0)
    office.table("b", cadence=loaded)
    assert modes(office.table("c", cadence=loaded)) == {mode}
