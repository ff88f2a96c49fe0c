"""How long one request keeps each node, uplink and downlink busy, as its path is laid."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dsi_mqtt.core.problem import Duty, Problem


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


def duties_along(problem: Problem, door: int, steps: Iterable[tuple[int, int, int]]) -> Duties:
    """Of a whole chain."""
    duties, at, cut = Duties.at_door(problem, door), door, 0
    for step in steps:
        duties = duties.with_segment(problem, at, cut, step)
        at, cut = step[0], step[1]
    return duties.answered(problem, at, door)
