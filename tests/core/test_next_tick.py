"""Ticks that a shell may leave out, says `Worker.next_tick`, would have had no effects."""

from __future__ import annotations

import math

import pytest

from dsi_mqtt.core import events as ev
from tests.core.harness import TICK_S, Node, Site


class Sleeper(Node):
    """Ticks all the time, and looks at what the ticks gave that it might have slept through."""

    _due = -math.inf
    slept = 0
    ticked = 0

    def handle(self, event: ev.Event) -> None:
        worker = self.worker
        if isinstance(event, ev.Ticked) and worker is not None:
            now = self.site.now
            asleep, self._due = now < self._due, math.inf
            self.ticked += 1
            if asleep:
                self.slept += 1
                assert worker.handle(event, now) == []
            else:
                super().handle(event)
            if self.worker is worker:
                self._due = worker.next_tick(now)
        else:
            self._due = -math.inf
            super().handle(event)


@pytest.mark.parametrize("seed", range(5))
def test_a_tick_before_its_time_does_nothing(seed: int) -> None:
    site = Site(seed, node=Sleeper)
    site.loss, site.repetition = 0.02, 0.02
    names = sorted(site.nodes)
    for number in range(40):
        site.client.submit("input")
        if number % 8 == 0:
            site.maker.moving = True
        if number % 11 == 5:
            victim = site.nodes[site.rng.choice(names)]
            victim.kill(will=site.rng.random() < 0.5)
            site.after(2.0, victim.start)
        if number % 7 == 3:
            site.nodes[site.rng.choice(names)].cut_data(site.rng.uniform(0.1, 1.0))
        site.run(site.rng.uniform(0.0, 0.6))
    assert site.run_until(lambda: site.client.settled, 200.0)
    site.run(90.0)
    sleepers = [node for node in site.nodes.values() if isinstance(node, Sleeper)]
    assert sum(node.slept for node in sleepers) > 0.5 * sum(node.ticked for node in sleepers)
    quiet = [node.slept for node in sleepers]
    site.run(10.0)
    gained = [node.slept - before for node, before in zip(sleepers, quiet, strict=True)]
    assert min(gained) >= 10.0 / TICK_S - 2  # at rest they all sleep
