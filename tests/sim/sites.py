"""Small scenarios for tests of the simulator."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dsi_mqtt.core.deployment import Deployment, Sla
from dsi_mqtt.core.model import ModelSpec
from dsi_mqtt.sim.journal import Journal
from dsi_mqtt.sim.report import Report, report_of
from dsi_mqtt.sim.scenario import Fault, Group, Line, Requests, Scenario
from dsi_mqtt.sim.simulation import Simulation

NAME = "hazards"


def deployment(name: str = NAME, *, rate_per_s: float = 1.0, **options: Any) -> Deployment:
    """Six units of 10 ms and 10 MiB each on a usual node, 16 KiB between them."""
    chosen = {"units": 6, "unit_ms": 10.0, "weight_mib": 10.0, "hidden": 4096, **options}
    return Deployment(
        name,
        ModelSpec(tier="fake", options=chosen),
        sla=Sla(rate_per_s=rate_per_s, deadline_ms=10_000.0),
    )


def scenario(
    *faults: Fault,
    nodes: int = 4,
    memory_mib: float = 32.0,
    rate_per_s: float = 1.0,
    duration_s: float = 60.0,
    seed: int = 1,
    link: Line | None = None,
    spread: float = 0.0,
) -> Scenario:
    """A site of equal nodes; by default each holds half of the model."""
    group = Group("gw", nodes, memory_mib=memory_mib, spread=spread, link=link or Line())
    return Scenario(
        (group,),
        (deployment(rate_per_s=rate_per_s),),
        (Requests(NAME, rate_per_s=rate_per_s, from_s=10.0),),
        faults,
        duration_s=duration_s,
        seed=seed,
    )


def run(chosen: Scenario, journal: Journal | None = None) -> Simulation:
    """To its end."""
    made = Simulation(chosen, journal=journal)
    made.run()
    return made


def reported(chosen: Scenario) -> Report:
    return report_of(run(chosen))


def other(chosen: Scenario, **changes: Any) -> Scenario:
    return replace(chosen, **changes)
