"""What the nodes of a simulation share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from dsi_mqtt.sim.broker import Broker
from dsi_mqtt.sim.clock import Clock
from dsi_mqtt.sim.engine import Graphs
from dsi_mqtt.sim.journal import Journal


@dataclass(slots=True)
class Place:
    """random: for a purpose. number: the next, of all that are counted."""

    clock: Clock
    broker: Broker
    journal: Journal
    graphs: Graphs
    open_s: float
    number: Callable[[], int]
    random: Callable[[str], Random]
