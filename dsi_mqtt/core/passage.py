"""One trip of a request over every hop there could be, in arrays; and which codings are of use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dsi_mqtt.core.aim import Trip
from dsi_mqtt.core.codecs import Codec, Coding
from dsi_mqtt.core.model import ModelGraph
from dsi_mqtt.core.problem import SHARE, Flags, Nanoseconds, Use
from dsi_mqtt.core.profile import NodeView
from dsi_mqtt.core.sizes import GIB


@dataclass(frozen=True, slots=True)
class Passage:
    """One trip, whichever codec is used. sizes[codec, cut]: bytes that cross.

    seconds[unit, node]. up, down[codec, cut, node]: ns on the links. writes, reads[codec, cut]: ns
    that codecs take, which is nothing at both ends, where a node's pace[node] is 1.
    """

    trip: Trip
    sizes: NDArray[np.float64]
    seconds: NDArray[np.float64]
    up: Nanoseconds
    down: Nanoseconds
    writes: Nanoseconds
    reads: Nanoseconds
    pace: NDArray[np.float64]

    @classmethod
    def of(
        cls, graph: ModelGraph, nodes: Sequence[NodeView], trip: Trip, codecs: Sequence[Codec]
    ) -> Passage:
        units = len(graph.units)
        plain = np.zeros(units + 1)
        plain[1:-1] = [unit.output_bytes * trip.rows for unit in graph.units[:-1]]
        sizes = np.rint(np.array([codec.ratio for codec in codecs])[:, None] * plain)
        sizes[:, 0], sizes[:, -1] = graph.input_bytes * trip.rows, graph.result_bytes
        rows = [node.seconds(trip.phase, trip.rows) for node in nodes]
        gib, calls = plain / GIB * 1e9, np.where(plain > 0, 1e9, 0.0)
        writes = np.array([c.encode_s * gib + c.encode_call_s * calls for c in codecs])
        reads = np.array([c.decode_s * gib + c.decode_call_s * calls for c in codecs])
        up, down = transfers(nodes, sizes)
        return cls(
            trip=trip,
            sizes=sizes,
            seconds=np.array(rows).reshape(len(nodes), units).T,
            up=up,
            down=down,
            writes=writes,
            reads=reads,
            pace=np.array([node.codec_pace for node in nodes]),
        )

    @property
    def encode(self) -> Nanoseconds:
        return self.writes[..., None] * self.pace

    @property
    def decode(self) -> Nanoseconds:
        return self.reads[..., None] * self.pace

    def uses(self, use: Use) -> Nanoseconds:
        """[codec, cut, node]: how long a hop keeps a station busy."""
        match use:
            case "sends":
                return self.up
            case "gets":
                return self.down
            case "encode":
                return self.encode
            case "decode":
                return self.decode

    def crossing(self, nodes: Sequence[NodeView]) -> tuple[Nanoseconds, Nanoseconds]:
        """[codec, cut, node]: what leaving and arriving take."""
        half = np.array([node.link.rtt_ms for node in nodes]) * 0.5e6
        leave, arrive = self.up + self.encode, self.down + self.decode
        leave += half
        arrive += half
        return np.rint(leave, out=leave), np.rint(arrive, out=arrive)

    def better(self, crossing: tuple[Nanoseconds, Nanoseconds]) -> tuple[Flags, Flags]:
        """[codec, codec]: the first is on no node and at no cut slower than the second, and keeps no
        link busy for longer; and of those, it keeps no processor busy for longer either.
        """
        # Links take what the bytes are worth: what is smaller keeps none of them busy for longer.
        smaller = _nowhere_more(self.sizes)
        lighter = smaller & _nowhere_more(self.writes) & _nowhere_more(self.reads)
        quicker = lighter.copy()
        for one, other in zip(*np.nonzero(smaller & ~lighter), strict=True):
            quicker[one, other] = all((array[one] <= array[other]).all() for array in crossing)
        return quicker, lighter


def _nowhere_more(values: NDArray[np.float64]) -> Flags:
    """[one, other]: no part of the first exceeds that of the second."""
    return np.asarray((values[:, None] <= values).all(axis=-1))


def useful_of(
    ways: Sequence[Coding],
    codecs: NDArray[np.intp],
    better: Sequence[tuple[Flags, Flags]],
    error_max: float | None,
    *,
    loads: bool,
) -> tuple[list[int], list[int], list[int]]:
    """Numbers of the codings that can be part of a best placement, the plain one among them; of
    those of them that can where nothing is left to decide by errors; and where it does not matter
    how long stations are busy either.

    One is of no use if its error alone is too much, or another one is nowhere worse. better: by
    trip, as `Passage` says. loads: it matters how long stations are busy.
    """
    errors = np.array([np.rint(way.error * SHARE) for way in ways])
    limit = np.inf if error_max is None else np.rint(error_max * SHARE)
    quicker, lighter = (np.ones((len(ways), len(ways)), np.bool_) for _ in range(2))
    for chosen, (quick, light) in zip(codecs.T, better, strict=True):
        quicker &= quick[np.ix_(chosen, chosen)]
        lighter &= light[np.ix_(chosen, chosen)]
    wins = lighter if loads else quicker
    both = wins if error_max is None else wins & (errors[:, None] <= errors)
    kept = ~_beaten(both) & (errors <= limit)
    kept[0] = True
    useful = np.flatnonzero(kept)
    lightest = useful[~_beaten(wins[np.ix_(useful, useful)])]
    quickest = lightest[~_beaten(quicker[np.ix_(lightest, lightest)])]
    return useful.tolist(), lightest.tolist(), quickest.tolist()


def _beaten(wins: Flags) -> Flags:
    """Which are, where wins[one, other] says that the first is nowhere worse; of equal ones not the
    first.
    """
    count = len(wins)
    first, itself = np.tri(count, dtype=np.bool_).T, np.eye(count, dtype=np.bool_)
    clear: Flags = wins & (~wins.T | first) & ~itself
    return np.asarray(clear.any(axis=0))


def transfers(
    nodes: Sequence[NodeView], sizes: NDArray[np.float64]
) -> tuple[Nanoseconds, Nanoseconds]:
    """[..., cut, node]: ns on the uplink and on the downlink. One Mbit/s is one bit per µs."""
    up = np.array([node.link.up_mbit_s for node in nodes])
    down = np.array([node.link.down_mbit_s for node in nodes])
    bits = 8e3 * sizes[..., None]
    return bits / up, bits / down
