"""One trip of a request over every hop there could be, in arrays; and which codings are of use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dsi_mqtt.core.aim import Trip
from dsi_mqtt.core.codecs import Codec, Coding
from dsi_mqtt.core.model import ModelGraph
from dsi_mqtt.core.problem import SHARE, Flags, Nanoseconds
from dsi_mqtt.core.profile import NodeView
from dsi_mqtt.core.sizes import GIB


@dataclass(frozen=True, slots=True)
class Links:
    """Of each node. up, down: bits in a µs; half: ns of half a round trip; pace: by how much codecs
    are slower there.
    """

    up: NDArray[np.float64]
    down: NDArray[np.float64]
    half: Nanoseconds
    pace: NDArray[np.float64]

    @classmethod
    def of(cls, nodes: Sequence[NodeView]) -> Links:
        figures = [
            (n.link.up_mbit_s, n.link.down_mbit_s, n.link.rtt_ms * 0.5e6, n.codec_pace)
            for n in nodes
        ]
        return cls(*np.array(figures, np.float64).reshape(len(nodes), 4).T.copy())


@dataclass(frozen=True, slots=True, eq=False)
class Crossing:
    """figures[size/write/read, …, cut]: of what crosses a cut, bytes, and ns that codecs take where
    the pace is 1, which is nothing at both ends.
    """

    figures: NDArray[np.float64]

    def written(self, codecs: int | NDArray[np.intp]) -> Crossing:
        """With these codecs alone."""
        return Crossing(self.figures[:, codecs])

    def leave(self, links: Links, trips: float = 1.0) -> Nanoseconds:
        """[…, cut, node]: ns out of a node, in so many trips."""
        sizes, writes, _ = self.figures
        return _times(sizes, links.up, writes, links.pace, trips * links.half)

    def arrive(self, links: Links, trips: float = 1.0) -> Nanoseconds:
        """[…, cut, node]: ns into a node."""
        sizes, _, reads = self.figures
        return _times(sizes, links.down, reads, links.pace, trips * links.half)


def _times(
    sizes: NDArray[np.float64],
    rates: NDArray[np.float64],
    work: Nanoseconds,
    pace: NDArray[np.float64],
    besides: Nanoseconds,
) -> Nanoseconds:
    times: Nanoseconds = np.stack([sizes, work], axis=-1) @ np.stack([8e3 / rates, pace])
    times += besides
    return np.rint(times, out=times)


@dataclass(frozen=True, slots=True)
class Passage:
    """One trip, whichever codec is used. seconds[unit, node]. crossing: by codec."""

    trip: Trip
    seconds: NDArray[np.float64]
    crossing: Crossing

    @classmethod
    def of(
        cls, graph: ModelGraph, nodes: Sequence[NodeView], trip: Trip, codecs: Sequence[Codec]
    ) -> Passage:
        units = len(graph.units)
        plain = np.zeros(units + 1)
        plain[1:-1] = [unit.output_bytes * trip.rows for unit in graph.units[:-1]]
        gib, calls = plain / GIB * 1e9, np.where(plain > 0, 1e9, 0.0)
        figures = np.array(
            [
                [codec.ratio * plain for codec in codecs],
                [c.encode_s * gib + c.encode_call_s * calls for c in codecs],
                [c.decode_s * gib + c.decode_call_s * calls for c in codecs],
            ]
        )
        sizes = np.rint(figures[0], out=figures[0])
        sizes[:, 0], sizes[:, -1] = graph.input_bytes * trip.rows, graph.result_bytes
        rows = [node.seconds(trip.phase, trip.rows) for node in nodes]
        seconds = np.array(rows).reshape(len(nodes), units).T
        return cls(trip, seconds, Crossing(figures))

    def better(self, links: Links) -> tuple[Flags, Flags]:
        """[codec, codec]: the first is nowhere slower than the second, and takes no more bytes; and
        of those, it takes no more work either.
        """
        sizes, *works = self.crossing.figures
        # Links take what the bytes are worth: what is smaller keeps none of them busy for longer.
        smaller = _nowhere_more(sizes)
        lighter = smaller & _nowhere_more(works[0]) & _nowhere_more(works[1])
        quicker = lighter.copy()
        # What is spared counts least where the link is quick and the codec slow.
        most = [float((rate * links.pace).max(initial=0.0)) for rate in (links.up, links.down)]
        for one, other in zip(*np.nonzero(smaller & ~lighter), strict=True):
            spared = 8e3 * (sizes[other] - sizes[one])
            quicker[one, other] = all(
                ((work[one] - work[other]) * each <= spared).all()
                for work, each in zip(works, most, strict=True)
            )
        return quicker, lighter


def _nowhere_more(values: NDArray[np.float64]) -> Flags:
    """[one, other]: no part of the first exceeds that of the second."""
    return np.asarray((values[:, None] <= values).all(axis=-1))


def useful_of(ways: Sequence[Coding], wins: Flags, error_max: float | None) -> list[int]:
    """Numbers of the codings that can be part of a best placement, the plain one among them.

    One is of no use if its error alone is too much, or another one is nowhere worse. wins[one,
    other]: the first is not, but perhaps for its error.
    """
    errors = np.array([np.rint(way.error * SHARE) for way in ways])
    limit = np.inf if error_max is None else np.rint(error_max * SHARE)
    both = wins if error_max is None else wins & (errors[:, None] <= errors)
    kept = ~_beaten(both) & (errors <= limit)
    kept[0] = True
    return np.flatnonzero(kept).tolist()


def unbeaten(wins: Flags) -> list[int]:
    """Numbers of those that no other wins against; of equal ones the first."""
    return np.flatnonzero(~_beaten(wins)).tolist()


def _beaten(wins: Flags) -> Flags:
    """Which are, where wins[one, other] says that the first is nowhere worse; of equal ones not the
    first.
    """
    count = len(wins)
    first, itself = np.tri(count, dtype=np.bool_).T, np.eye(count, dtype=np.bool_)
    clear: Flags = wins & (~wins.T | first) & ~itself
    return np.asarray(clear.any(axis=0))
