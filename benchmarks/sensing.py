"""How well a node knows its link: what it tells beside what the link carries, on recorded links.

    python benchmarks/sensing.py FOLDER [--seconds 300] [--each 3]

A meter as a worker has it (`core/link.py`) on simulated links that follow the recordings, of which
`--each` begin at random seconds; for 100 s in the middle of each run the link carries 7 % of that.
For each kind of traffic, of what is told twice a second: the share that is more than twice what the
link carries at that moment, more than five times, less than half; and the mean distance in
logarithms. `lag` is what would be found by one who knew the true rate of some seconds ago.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from dsi_mqtt.core.worker import Worker
from dsi_mqtt.sim.clock import Clock
from dsi_mqtt.sim.links import Disturbance, Figures, Link
from dsi_mqtt.sim.traces import Trace, read_folder
from dsi_mqtt.sim.vitals import Vitals

# KiB up and down of each message, of which three a second pass on the mean.
TRAFFIC = {
    "none": (0, 0),
    "large up": (76, 1),
    "large down": (1, 76),
    "large both": (76, 76),
    "small up": (8, 1),
    "small both": (8, 8),
}
RATE_PER_S = 3.0
# What nobody has measured is assumed to carry.
ASSUMED_MBIT_S = 100.0
LEAST_MBIT_S = 0.01
BEGINS_S, TELLS_S, SETTLED_S, QUEUED_S = 5.0, 0.5, 20.0, 2.0


class _Idle:
    """A worker that does nothing."""

    node, incarnation = "gw", "1"

    def segment_loads(self) -> tuple[Any, ...]:
        return ()

    def door_loads(self) -> tuple[Any, ...]:
        return ()


class Run:
    """One link with one kind of traffic. errors: of up and down, logarithms of told over true."""

    def __init__(self, trace: Trace, seed: str, kib: tuple[int, int], seconds: float) -> None:
        self._random = random.Random(seed)  # noqa: S311 - of a simulation
        slow = Disturbance(0.4 * seconds, 0.4 * seconds + 100, 0.07)
        offset = self._random.randrange(len(trace))
        self._link = Link(Figures(0.0, 0.0, 0.0), trace, offset, (slow,))
        self._clock = Clock()
        self._vitals = Vitals(self._link, self._clock, lambda _: 300)
        self._bytes = kib[0] * 1024, kib[1] * 1024
        self.errors: tuple[list[float], list[float]] = ([], [])
        self._vitals.begin()
        self._vitals.connected(0.0)
        self._clock.at(0.0, self._tell)
        if any(kib):
            self._clock.at(BEGINS_S, self._pass)
        self._clock.run(seconds)

    def _pass(self) -> None:
        """A door lets no more in while much is waiting."""
        now, (up, down) = self._clock.now, self._bytes
        if self._link.down.free_at < now + QUEUED_S:
            self._vitals.receives(down, self._link.down.send(down, now))
        if self._link.up.free_at < now + QUEUED_S:
            self._vitals.sends(up, now, self._link.up.send(up, now))
        self._clock.at(now + self._random.expovariate(RATE_PER_S), self._pass)

    def _tell(self) -> None:
        now = self._clock.now
        told = self._vitals.telemetry(cast("Worker", _Idle()), now).link
        if now >= SETTLED_S:
            true = max(self._link.up.mbit_s(now), LEAST_MBIT_S)
            for errors, mbit_s in zip(self.errors, (told.up_mbit_s, told.down_mbit_s), strict=True):
                errors.append(math.log((mbit_s or ASSUMED_MBIT_S) / true))
        self._clock.at(now + TELLS_S, self._tell)


def _row(errors: list[float]) -> str:
    count = len(errors)

    def share(counts: Iterator[bool]) -> str:
        return f"{sum(counts) / count:8.1%}"

    return " ".join(
        (
            share(error > math.log(2) for error in errors),
            share(error > math.log(5) for error in errors),
            share(error < -math.log(2) for error in errors),
            f"{sum(map(abs, errors)) / count:8.2f}",
        )
    )


def _lagging(traces: dict[str, Trace], lag: int) -> list[float]:
    return [
        math.log(max(before, LEAST_MBIT_S) / max(after, LEAST_MBIT_S))
        for trace in traces.values()
        for before, after in zip(trace.rates, trace.rates[lag:], strict=False)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--each", type=int, default=3)
    args = parser.parse_args()
    traces = read_folder(args.folder)
    print(f"{'traffic':16}{'> 2x':>9}{'> 5x':>9}{'< 1/2':>9}{'mean':>9}")
    for name, kib in TRAFFIC.items():
        both: tuple[list[float], list[float]] = ([], [])
        for file, trace in sorted(traces.items()):
            for turn in range(args.each):
                run = Run(trace, f"{file}{turn}", kib, args.seconds)
                both[0].extend(run.errors[0])
                both[1].extend(run.errors[1])
        print(f"{name + ', up':16} {_row(both[0])}", flush=True)
        print(f"{name + ', down':16} {_row(both[1])}", flush=True)
    for lag in (1, 2, 4):
        print(f"{f'lag {lag} s':16} {_row(_lagging(traces, lag))}")


if __name__ == "__main__":
    main()
