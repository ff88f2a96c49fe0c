"""The other half of `dsi-mqtt bench forecast`: waits under load, beside the simulator's.

What would take hours takes seconds on virtual time: thousands of requests at random for each load,
through the machines that serve (`dsi_mqtt/sim`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from dsi_mqtt.cli.bench_forecast import AT_REST, foretold
from dsi_mqtt.cli.bench_forecast_cases import NAME
from dsi_mqtt.core.deployment import Deployment, Sla, SplitPart
from dsi_mqtt.core.model import ModelSpec
from dsi_mqtt.core.table import Forecast, Table
from dsi_mqtt.errors import DsiError
from dsi_mqtt.sim.report import latency_of
from dsi_mqtt.sim.scenario import Group, Line, Requests, Scenario
from dsi_mqtt.sim.simulation import Simulation

LOADS: Final = (0.2, 0.4, 0.6, 0.8)
UNITS: Final = 8
_DEADLINE_MS: Final = 60_000.0
# Of a light load, in which links and engines are measured.
_FIRST_S: Final = 10.0
_COUNTED_S: Final = 70.0
_FIRST_RATE: Final = 0.3


@dataclass(frozen=True, slots=True)
class Chain:
    """parts: nodes that together hold the model. spread: of one computation, over its mean."""

    parts: int
    spread: float
    link: Line
    unit_ms: float
    hidden: int


CHAINS: Final = (
    Chain(1, 0.0, Line(100, 100, 2), 5, 4096),
    Chain(2, 0.0, Line(50, 50, 5), 8, 16384),
    Chain(3, 0.2, Line(20, 20, 10), 5, 4096),
    Chain(4, 0.5, Line(10, 10, 20), 4, 8192),
    Chain(5, 0.3, Line(30, 30, 10), 3, 4096),
)


@dataclass(frozen=True, slots=True)
class SimulatedRow:
    """load: of the busiest station. forecast: before the load. p95_ms: of `requests`, simulated."""

    chain: Chain
    segments: int
    load: float
    forecast: Forecast
    requests: int
    p95_ms: float

    @property
    def p95_error(self) -> float:
        return self.forecast.p95_ms / self.p95_ms - 1


def simulated(requests: int, seed: int) -> Iterator[SimulatedRow]:
    """All chains under all loads. Raises DsiError where a request has no result."""
    for chain in CHAINS:
        for load in LOADS:
            yield simulate(chain, load, requests, seed)


def simulate(chain: Chain, load: float, requests: int, seed: int) -> SimulatedRow:
    alone = _deployment(chain, AT_REST)
    first = _simulation(chain, alone, None, seed)
    first.run()
    table = _serving(first)
    rate = load * _foretold(first, alone, table).rate_per_s
    as_it_is = tuple(SplitPart(str(s.units), (s.replicas[0].node,)) for s in table.segments)
    spec = replace(_deployment(chain, rate), split=as_it_is)
    run = _simulation(chain, spec, requests / rate, seed)
    run.clock.run(_COUNTED_S)
    before = len(run.outcome.answers[NAME].latencies_s)
    told = _foretold(run, spec, _serving(run))
    answers = run.run().answers[NAME]
    latency = latency_of(answers.latencies_s[before:])
    if latency is None or answers.settled < answers.asked or answers.errors:
        raise DsiError(f"bench forecast: a simulated request has no result at a load of {load:g}")
    counted = len(answers.latencies_s) - before
    return SimulatedRow(chain, len(table.segments), load, told, counted, latency.p95_ms)


def _deployment(chain: Chain, rate_per_s: float) -> Deployment:
    options = {
        "units": UNITS,
        "unit_ms": chain.unit_ms,
        "weight_mib": 10.0,
        "hidden": chain.hidden,
    }
    sla = Sla(rate_per_s=rate_per_s, deadline_ms=_DEADLINE_MS)
    return Deployment(NAME, ModelSpec(tier="fake", options=options), sla=sla)


def _simulation(chain: Chain, spec: Deployment, for_s: float | None, seed: int) -> Simulation:
    """for_s: of the load; None: the light one alone."""
    memory = 10 * -(-UNITS // chain.parts) + 1
    group = Group("gw", chain.parts + 1, memory_mib=memory, spread=chain.spread, link=chain.link)
    light = Requests(NAME, rate_per_s=_FIRST_RATE, from_s=_FIRST_S, until_s=_COUNTED_S)
    asked: tuple[Requests, ...] = (light,)
    if for_s is not None:
        asked += (Requests(NAME, rate_per_s=spec.rate_per_s, from_s=_COUNTED_S),)
    until = _COUNTED_S + (for_s or 0.0)
    return Simulation(Scenario((group,), (spec,), asked, duration_s=until, seed=seed))


def _serving(run: Simulation) -> Table:
    table = run.outcome.serving(NAME)
    if table is None or not table.segments:
        raise DsiError("bench forecast: a simulated chain does not serve")
    return table


def _foretold(run: Simulation, spec: Deployment, table: Table) -> Forecast:
    told = [node.telemetry() for node in run.nodes.values()]
    known = [telemetry for telemetry in told if telemetry is not None]
    return foretold(run.broker.statuses.values(), known, spec, table)
