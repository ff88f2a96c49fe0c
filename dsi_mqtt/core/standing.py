"""Paths that stand at the same cut on the same node, and which of them leave a new one no use.

A path *dominates* another one when whatever may follow the other may follow it too, for no more: it
has no higher score, has used up no more of any budget and no more segments, and leaves at least as
much room on every node and as much time of every station.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsi_mqtt.core.duties import Duties
from dsi_mqtt.core.memory import Loads
from dsi_mqtt.core.path import Path
from dsi_mqtt.core.problem import Problem


class Stand(NamedTuple):
    """A path that is expanded. spent: its score; used: of each budget; paid: nodes whose fees it
    has paid.
    """

    path: Path
    spent: float
    used: tuple[float, ...]
    loads: Loads
    duties: Duties
    paid: frozenset[int]


@dataclass(slots=True, eq=False)
class Standing:
    """Those at one place. scored: a higher score counts against a path. timed: so do duties.

    figures[path]: what may not be higher than that of the path that is to be dominated.
    """

    problem: Problem
    scored: bool
    timed: bool
    stands: list[Stand] = field(default_factory=list)
    figures: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))

    def admits(self, here: Stand) -> bool:
        """Whether nothing dominates the path, which then stands here."""
        figures = self._figures(here)
        count = len(self.stands)
        if count:
            lower = (self.figures[:count] <= figures).all(axis=1)
            if any(self._dominates(self.stands[i], here) for i in np.flatnonzero(lower).tolist()):
                return False
        if count == len(self.figures):
            grown = np.empty((max(4, 2 * count), len(figures)))
            if count:
                grown[:count] = self.figures
            self.figures = grown
        self.figures[count] = figures
        self.stands.append(here)
        return True

    def _figures(self, here: Stand) -> NDArray[np.float64]:
        own: list[float] = [*here.used]
        if self.scored:
            own.append(here.spent)
        if self.problem.segments_bounded:
            own.append(len(here.path[1]))
        held = np.zeros(len(self.problem.nodes))
        for load in here.loads:
            held[load.node] = load.used
        if not self.timed:
            return np.concatenate([own, held])
        busy = np.zeros((len(held), 3))
        for node, duty in here.duties.of:
            busy[node] = duty
        return np.concatenate([own, held, busy.ravel()])

    def _dominates(self, other: Stand, here: Stand) -> bool:
        """other: has no higher figures."""
        if self.scored:
            fees = self.problem.fees
            unpaid = sum(float(fees[node]) for node in here.paid - other.paid)
            if (other.spent + unpaid, other.path) > (here.spent, here.path):
                return False
        return self.problem.memory.covers(other.loads, here.loads)
