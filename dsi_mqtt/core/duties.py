"""How long one request keeps each node, uplink and downlink busy, as its path is laid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from dsi_mqtt.core.problem import Chain, Demands, Duty, Nanoseconds, Problem

# Steps from which on it is quicker to take all at once.
_LONG: Final = 8


@dataclass(frozen=True, slots=True, order=True)
class Duties:
    """Of the nodes that a path has come by, in the order of their numbers."""

    of: tuple[tuple[int, Duty], ...] = ()

    @classmethod
    def at_door(cls, problem: Problem, door: int) -> Duties:
        """Input and answer between the door and whoever asks."""
        demands = problem.demands
        gets, sends = demands.access_gets[door], demands.access_sends[door]
        return cls(((door, Duty(0.0, float(sends), float(gets))),))

    @property
    def most(self) -> float:
        return max((max(duty) for _, duty in self.of), default=0.0)

    def with_segment(
        self, problem: Problem, source: int, start: int, step: tuple[int, int, int]
    ) -> Duties:
        """With the hop from `source` and the segment it leads to: (node, stop, coding)."""
        demands, (node, stop, coding) = problem.demands, step
        work = demands.compute[stop, node] - demands.compute[start, node] + demands.segment
        hopped = self.with_hop(problem, source, node, start, coding)
        return hopped.plus(node, work=float(work))

    def with_hop(self, problem: Problem, source: int, target: int, cut: int, coding: int) -> Duties:
        if source == target:
            return self
        demands, at = problem.demands, (coding, cut)
        encode, sends = demands.encode[*at, source], demands.sends[*at, source]
        decode, gets = demands.decode[*at, target], demands.gets[*at, target]
        sent = self.plus(source, work=float(encode), sends=float(sends))
        return sent.plus(target, work=float(decode), gets=float(gets))

    def answered(self, problem: Problem, last: int, door: int) -> Duties:
        """With the way of the answer from the last segment to the door."""
        return self.with_hop(problem, last, door, problem.units, 0)

    def plus(self, node: int, work: float = 0.0, sends: float = 0.0, gets: float = 0.0) -> Duties:
        duties = dict(self.of)
        duties[node] = duties.get(node, Duty()).plus(work, sends, gets)
        return Duties(tuple(sorted(duties.items())))


def busy_along(problem: Problem, door: int, steps: Chain) -> Nanoseconds:
    """[work/sends/gets, node]: of a whole chain; of a long one all hops at once."""
    if len(steps) < _LONG:
        return busy_around(problem, door, steps, busy_between(problem, steps))
    demands, busy = problem.demands, np.zeros((3, len(problem.nodes)))
    nodes, stops, codings = np.array(steps).T
    cuts, ways = np.append(0, stops), np.append(codings, 0)
    works = demands.compute[stops, nodes] - demands.compute[cuts[:-1], nodes] + demands.segment
    np.add.at(busy[0], nodes, works)
    busy[1, door] += demands.access_sends[door]
    busy[2, door] += demands.access_gets[door]
    ends = np.concatenate([[door], nodes, [door]])
    hops = np.flatnonzero(ends[:-1] != ends[1:])
    at, sources, targets = (ways[hops], cuts[hops]), ends[hops], ends[hops + 1]
    for row, nodes, uses in (
        (0, sources, demands.encode),
        (1, sources, demands.sends),
        (0, targets, demands.decode),
        (2, targets, demands.gets),
    ):
        np.add.at(busy[row], nodes, uses[*at, nodes])
    return busy


def busy_between(problem: Problem, steps: Chain) -> Nanoseconds:
    """[work/sends/gets, node]: of a chain's segments and the hops between them."""
    demands, busy, cut = problem.demands, np.zeros((3, len(problem.nodes))), 0
    at = steps[0][0]
    for node, stop, coding in steps:
        _add_hop(demands, busy, (at, node), (coding, cut))
        busy[0, node] += demands.compute[stop, node] - demands.compute[cut, node] + demands.segment
        at, cut = node, stop
    return busy


def busy_around(problem: Problem, door: int, steps: Chain, between: Nanoseconds) -> Nanoseconds:
    """The same with what this door adds."""
    demands, busy = problem.demands, between.copy()
    busy[1, door] += demands.access_sends[door]
    busy[2, door] += demands.access_gets[door]
    _add_hop(demands, busy, (door, steps[0][0]), (0, 0))
    _add_hop(demands, busy, (steps[-1][0], door), (0, steps[-1][1]))
    return busy


def _add_hop(
    demands: Demands, busy: Nanoseconds, ends: tuple[int, int], at: tuple[int, int]
) -> None:
    """ends: from which node to which; at: coding and cut."""
    source, target = ends
    if source != target:
        busy[0, source] += demands.encode[*at, source]
        busy[1, source] += demands.sends[*at, source]
        busy[0, target] += demands.decode[*at, target]
        busy[2, target] += demands.gets[*at, target]
