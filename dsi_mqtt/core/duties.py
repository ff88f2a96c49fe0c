"""How long one request keeps each node, uplink and downlink busy, as its path is laid."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from dsi_mqtt.core.problem import Duty, Nanoseconds, Problem


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


def busy_along(problem: Problem, door: int, steps: Iterable[tuple[int, int, int]]) -> Nanoseconds:
    """[work/sends/gets, node]: of a whole chain."""
    demands, at, cut = problem.demands, door, 0
    busy = np.zeros((3, len(problem.nodes)))
    work, sends, gets = busy
    sends[door], gets[door] = demands.access_sends[door], demands.access_gets[door]
    for node, stop, coding in (*steps, (door, problem.units, 0)):
        if node != at:
            work[at] += demands.encode[coding, cut, at]
            sends[at] += demands.sends[coding, cut, at]
            work[node] += demands.decode[coding, cut, node]
            gets[node] += demands.gets[coding, cut, node]
        if stop > cut:
            work[node] += demands.compute[stop, node] - demands.compute[cut, node]
            work[node] += demands.segment
        at, cut = node, stop
    return busy
