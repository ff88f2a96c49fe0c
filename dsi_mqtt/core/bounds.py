"""The least latency that can follow: dynamic programming backwards over (cut, node).

It looks at each segment alone: a node that returns has forgotten what it holds. So it can be too
low, never too high. *Prices* bring the memory back in: each unit on a node is charged for the
memory it takes there, and all nodes together are credited with what their memory is worth, which
is at least what a placement that fits can be charged. With the prices right (`core.prices`) the
programme itself avoids nodes that would overflow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dsi_mqtt.core.problem import HOP_NS, SEGMENT_NS, Nanoseconds, Problem

# A segment costs a little more than it does, so that of equal latencies the one with fewer
# segments is lower. A binary fraction: sums stay exact up to two hours of latency.
SEGMENT: Final = SEGMENT_NS + 2.0**-10

Steps = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Prices:
    """charges[cut, node]: of the units before `cut`; credit: of all nodes. Whole ns."""

    charges: Nanoseconds
    credit: float

    @classmethod
    def none(cls, problem: Problem) -> Prices:
        return cls(np.zeros_like(problem.compute), 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Bounds:
    """For the doors `doors` of `problem`, at `prices`.

    spent[cut, node]: compute and charges of the units before `cut`.
    layers[k][door, cut, node]: `spent` and the least that follows, when the node holds the
    segment before `cut` and k more may come; without a bound on their number, one for all k.
    starts[door, cut, node]: the least from the start of a segment there; after the most segments.
    roots[door]: the least of all, credited.
    """

    problem: Problem
    doors: tuple[int, ...]
    prices: Prices
    spent: Nanoseconds
    layers: tuple[Nanoseconds, ...]
    starts: Nanoseconds
    roots: Nanoseconds

    @classmethod
    def of(cls, problem: Problem, prices: Prices, doors: tuple[int, ...]) -> Bounds:
        spent = problem.compute + prices.charges
        last = _answered(problem, spent, np.array(doors))
        layers: list[Nanoseconds] = []
        if problem.segments_bounded:
            layers.append(last)
            for _ in range(problem.max_segments - 1):
                layers.append(_layer(problem, spent, last, layers[-1])[0])
            _, starts = _layer(problem, spent, last, layers[-1])
        else:
            layer, starts = _layer(problem, spent, last, None)
            layers.append(layer)
        roots = _entered(problem, np.array(doors), starts[:, 0]) - prices.credit
        return cls(problem, doors, prices, spent, tuple(layers), starts, roots)

    def root(self, door: int) -> float:
        return float(self.roots[self.doors.index(door)])

    def after(self, door: int, more: int) -> Nanoseconds:
        """[cut, node]: `spent` and the least that follows; more: segments that may come."""
        layer = self.layers[min(more, len(self.layers) - 1)]
        following: Nanoseconds = layer[self.doors.index(door)]
        return following

    def steps(self, door: int) -> Steps:
        """(node, start, stop) of the chain that the bound stands for.

        Only without a bound on the number of segments.
        """
        row, cut, at = self.doors.index(door), 0, door
        totals, steps = self.layers[0][row], []
        while cut < self.problem.units:
            there = self.starts[row, cut] + self.problem.arrive[cut]
            there[at] = self.starts[row, cut, at] - HOP_NS - self.problem.leave[cut, at]
            if cut and not self.problem.by_hand:
                there[at] = np.inf
            at = int(there.argmin())
            stops = self.problem.stops[cut, :, at]
            stop = int(np.where(stops, totals[:, at], np.inf).argmin())
            steps.append((at, cut, stop))
            cut = stop
        return tuple(steps)


def _answered(problem: Problem, spent: Nanoseconds, doors: NDArray[np.intp]) -> Nanoseconds:
    """[door, cut, node]: all is computed and the answer goes out; inf before the last cut."""
    end = problem.units
    hop = problem.leave[end] + problem.arrive[end][doors][:, None] + HOP_NS
    hop[np.arange(len(doors)), doors] = 0.0
    answered = np.full((len(doors), end + 1, len(problem.nodes)), np.inf)
    answered[:, end] = hop + (problem.leave[end][doors] + HOP_NS)[:, None] + spent[end]
    return answered


def _layer(
    problem: Problem, spent: Nanoseconds, last: Nanoseconds, below: Nanoseconds | None
) -> tuple[Nanoseconds, Nanoseconds]:
    """One layer and its starts. below: the layer for one segment less, None for any number."""
    layer = last.copy()
    following = layer if below is None else below
    starts = np.empty_like(last[:, :-1])
    for cut in range(problem.units - 1, -1, -1):
        ends = np.where(problem.stops[cut, cut + 1 :], following[:, cut + 1 :], np.inf)
        starts[:, cut] = ends.min(axis=1) - spent[cut] + SEGMENT
        if cut:
            layer[:, cut] = _moved(problem, cut, starts[:, cut]) + spent[cut]
    return layer, starts


def _moved(problem: Problem, cut: int, start: Nanoseconds) -> Nanoseconds:
    """[door, node]: the least from `cut`, when another node goes on."""
    there = start + problem.arrive[cut]
    rows = np.arange(len(there))
    nearest = there.argmin(axis=1)
    least = np.repeat(there[rows, nearest][:, None], there.shape[1], axis=1)
    if not problem.by_hand:
        there[rows, nearest] = np.inf
        least[rows, nearest] = there.min(axis=1)
    moved: Nanoseconds = problem.leave[cut] + HOP_NS + least
    return np.minimum(moved, start) if problem.by_hand else moved


def _entered(problem: Problem, doors: NDArray[np.intp], start: Nanoseconds) -> Nanoseconds:
    """[door]: the least from the input's way to the door on."""
    there = (start + problem.arrive[0]).min(axis=1) + problem.leave[0][doors] + HOP_NS
    here = start[np.arange(len(doors)), doors]
    entered: Nanoseconds = np.minimum(there, here) + problem.arrive[0][doors] + HOP_NS
    return entered
