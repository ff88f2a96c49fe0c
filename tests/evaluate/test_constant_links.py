"""Where nothing changes, nothing moves: links that are used are measured as what they are."""

from __future__ import annotations

import pytest

from dsi_mqtt.evaluate import scenarios
from dsi_mqtt.evaluate.playing import SETTLED_S
from dsi_mqtt.sim.simulation import Simulation


@pytest.mark.parametrize("name", [n for n in scenarios.names() if scenarios.is_constant(n)])
def test_once_links_are_known_nobody_moves(name: str) -> None:
    run = Simulation(scenarios.scenario(name, seed=1))
    run.run()
    kinds = [(d.kind, d.at_s) for d in run.outcome.decisions if d.kind != "keep"]
    assert kinds[0][0] == "place"
    assert all(at_s <= SETTLED_S for _, at_s in kinds)
