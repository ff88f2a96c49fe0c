"""A site small enough to be played by every policy in a test."""

from __future__ import annotations

from array import array

from dsi_mqtt.core.deployment import Deployment, Privacy, Sla
from dsi_mqtt.core.model import ModelSpec
from dsi_mqtt.evaluate.playing import Played
from dsi_mqtt.evaluate.policies import Name
from dsi_mqtt.evaluate.scenarios import PRICES
from dsi_mqtt.sim.scenario import Fault, Group, Line, Requests, Scenario
from dsi_mqtt.sim.simulation import Decision

FROM_S, UNTIL_S = 20.0, 32.0


def site(seed: int = 1) -> Scenario:
    """A gate that sees inputs, two servers and a cloud; the nearer server's link is throttled."""
    wired = Line(900.0, 900.0, 1.0)
    groups = (
        Group("gate", zone="city", memory_mib=15, gflops=10, link=wired),
        Group("near", zone="district", gflops=100, link=Line(30.0, 30.0, 20.0)),
        Group("far", zone="district", gflops=100, link=Line(20.0, 20.0, 30.0)),
        Group("cloud", zone="cloud", gflops=500, link=Line(6.0, 6.0, 60.0)),
    )
    options = {"units": 4, "unit_ms": 20.0, "weight_mib": 10.0, "crossing_kib": 60.0}
    deployment = Deployment(
        "frames",
        ModelSpec(tier="fake", options=options),
        sla=Sla(latency_ms=300.0, rate_per_s=2.0, deadline_ms=1200.0),
        privacy=Privacy({"0:1": ("city",)}),
        prices=PRICES,
    )
    return Scenario(
        groups,
        (deployment,),
        (Requests("frames", rate_per_s=3.0, from_s=10.0),),
        (Fault(FROM_S, UNTIL_S - FROM_S, throttle="near", factor=0.06),),
        duration_s=42.0,
        seed=seed,
    )


def played(policy: Name, *took_ms: float, failed: int = 0, moves: str = "") -> Played:
    """moves: r for each remap, s for each resplit, one a second from 28 s on."""
    kinds = {"r": "remap", "s": "resplit"}
    decisions = tuple(
        Decision(28.0 + i, "frames", kinds[letter], "") for i, letter in enumerate(moves)
    )
    return Played(
        policy,
        len(took_ms) + failed,
        array("d", [ms / 1e3 for ms in took_ms]),
        array("d", range(len(took_ms))),
        array("d", range(failed)),
        nbytes=1000,
        control_bytes=10,
        cost=0.5,
        decisions=decisions,
        deciding_s=(0.001, 0.003),
    )
