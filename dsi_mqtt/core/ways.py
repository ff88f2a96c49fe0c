"""A placement whose segments are served by several nodes each: the chains that it is made of.

Requests go in *lanes*, and each lane comes by one replica of each segment (`Segment.replica`), so
that a placement with replicas is a few plain chains, each with its share of the requests. All that
adds up along a chain is the mean over these; how long a station is kept busy, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from dsi_mqtt.core.duties import busy_along
from dsi_mqtt.core.path import Path, Step
from dsi_mqtt.core.problem import Nanoseconds, Problem, Sums

# Of each segment, nodes with their weights; empty: its own node alone.
Weights = tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Way:
    """share: of the requests."""

    share: float
    path: Path


def ways_of(path: Path, weights: Sequence[Weights]) -> tuple[Way, ...]:
    """weights: of each step of `path`."""
    door, steps = path
    ends = {0.0, 1.0}
    for replicas in weights:
        total, at = sum(weight for _, weight in replicas), 0.0
        for _, weight in replicas[:-1]:
            at += weight / total
            ends.add(at)
    ordered = sorted(ends)
    found: dict[Path, float] = {}
    for low, high in pairwise(ordered):
        nodes = (
            _at(replicas, (low + high) / 2) if replicas else step.node
            for step, replicas in zip(steps, weights, strict=True)
        )
        chain = tuple(
            Step(node, step.stop, step.coding) for node, step in zip(nodes, steps, strict=True)
        )
        found[door, chain] = found.get((door, chain), 0.0) + high - low
    return tuple(Way(share, chain) for chain, share in found.items())


def _at(replicas: Weights, place: float) -> int:
    left = place * sum(weight for _, weight in replicas)
    for node, weight in replicas:
        left -= weight
        if left < 0:
            return node
    return replicas[-1][0]


def mean(sums: Sums, ways: Iterable[Way]) -> float:
    return sum(way.share * sums.along(*way.path) for way in ways)


def busy(problem: Problem, ways: Iterable[Way]) -> Nanoseconds:
    """[work/sends/gets, node]: by the mean request."""
    total = np.zeros((3, len(problem.nodes)))
    for way in ways:
        total += way.share * busy_along(problem, *way.path)
    return total


def nodes_of(ways: Iterable[Way]) -> set[int]:
    """All that take part, the door among them."""
    return {node for way in ways for node in (way.path[0], *(s.node for s in way.path[1]))}
