"""How a link changes: recorded in a CSV file, one row a second, or made up from a seed.

A file has a header with `time_s`, `rate_mbit_s` and `rtt_ms`; other columns are passed over. What
lies between two rows is as the earlier one says, equal times are averaged, and behind its end a
trace begins anew.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Final

from dsi_mqtt.errors import ConfigError

COLUMNS: Final = ("time_s", "rate_mbit_s", "rtt_ms")
# Of one trace: a week.
SECONDS_MAX: Final = 7 * 86_400
SYNTHETIC_S: Final = 600


@dataclass(frozen=True, slots=True)
class Trace:
    """One figure for each second: Mbit/s and ms.

    rows: of the file, as they stand in it. gaps_filled: seconds of which it says nothing. Neither
    makes another trace.
    """

    rates: tuple[float, ...]
    rtts: tuple[float, ...]
    rows: int = field(default=0, compare=False)
    gaps_filled: int = field(default=0, compare=False)

    def __len__(self) -> int:
        return len(self.rates)


def read_trace(path: Path) -> Trace:
    """Raises ConfigError naming file and line."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"{path}: cannot be read: {reason}") from None
    rows = csv.DictReader(text.splitlines())
    missing = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
    if missing:
        raise ConfigError(f"{path.name}: its first line lacks the column {missing[0]}")
    try:
        figures = list(_figures(rows, path.name))
    except csv.Error as error:
        raise ConfigError(f"{path.name} line {rows.line_num + 1}: is no CSV: {error}") from None
    return replace(_per_second(_averaged(figures), path.name), rows=len(figures))


def read_folder(folder: Path) -> dict[str, Trace]:
    """All CSV files of a folder, by their names without `.csv`. Raises ConfigError."""
    found = {path.stem: read_trace(path) for path in sorted(folder.glob("*.csv"))}
    if not found:
        raise ConfigError(f"{folder}: holds no trace, which is a file NAME.csv")
    return found


Row = tuple[float, float, float]


def _figures(rows: csv.DictReader[str], file: str) -> Iterator[Row]:
    before = -math.inf
    for row in rows:
        where = f"{file} line {rows.line_num}"
        time, rate, rtt = (_figure(row, name, where) for name in COLUMNS)
        if time < before:
            raise ConfigError(f"{where}: time_s {time:g} is before that of the line above")
        before = time
        yield time, rate, rtt


def _figure(row: Mapping[str, str | None], name: str, where: str) -> float:
    given = row[name]
    try:
        value = float(given or "")
    except ValueError:
        raise ConfigError(f"{where}: {name} is {given!r:.40}; give a number") from None
    if not 0 <= value < math.inf:
        raise ConfigError(f"{where}: {name} is {given!r:.40}; give a number of 0 or more")
    return value


def _averaged(rows: Iterable[Row]) -> list[Row]:
    """One row for each time."""
    same: dict[float, list[Row]] = {}
    for row in rows:
        same.setdefault(row[0], []).append(row)
    return [
        (time, sum(r[1] for r in found) / len(found), sum(r[2] for r in found) / len(found))
        for time, found in same.items()
    ]


def _per_second(rows: list[Row], file: str) -> Trace:
    """From the first row's time on, each second as the last row before says."""
    if not rows:
        raise ConfigError(f"{file}: holds no row below its header")
    first = rows[0][0]
    seconds = int(rows[-1][0] - first) + 1
    if seconds > SECONDS_MAX:
        raise ConfigError(f"{file}: is {seconds} s long; {SECONDS_MAX} s are the most")
    if not any(rate for _, rate, _ in rows):
        raise ConfigError(f"{file}: its rates are all 0; nothing could ever be sent")
    rates, rtts, at, held = [], [], 0, 0
    for second in range(seconds):
        before = at
        while at + 1 < len(rows) and rows[at + 1][0] - first <= second:
            at += 1
        held += second > 0 and at == before
        rates.append(rows[at][1])
        rtts.append(rows[at][2])
    return Trace(tuple(rates), tuple(rtts), gaps_filled=held)


# --- made up ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Cover:
    """How a link is for a while: Mbit/s, ms, the share by which it wavers, and for how long (s)."""

    rate: float
    rtt: float
    wavers: float
    lasts: float


_DRIVE: Final = (
    _Cover(120.0, 28.0, 0.3, 40.0),
    _Cover(40.0, 38.0, 0.4, 30.0),
    _Cover(8.0, 55.0, 0.5, 15.0),
    _Cover(0.1, 90.0, 0.5, 4.0),
)
_WALK: Final = (_Cover(60.0, 22.0, 0.2, 60.0), _Cover(15.0, 35.0, 0.3, 30.0))
_WIRE: Final = (_Cover(95.0, 2.0, 0.02, 600.0),)
_SYNTHETIC: Final = {"drive": _DRIVE, "walk": _WALK, "wire": _WIRE}
SYNTHETIC: Final = tuple(_SYNTHETIC)


def made_up(kind: str, random: Random) -> Trace:
    """One of `SYNTHETIC`: from one kind of cover to the next, each for a while."""
    covers = _SYNTHETIC[kind]

    def draw(wavers: float) -> float:
        return math.exp(random.gauss(0.0, wavers))

    rates: list[float] = []
    rtts: list[float] = []
    at = random.randrange(len(covers))
    while len(rates) < SYNTHETIC_S:
        cover = covers[at]
        for _ in range(1 + int(random.expovariate(1 / cover.lasts))):
            rates.append(round(cover.rate * draw(cover.wavers), 3))
            rtts.append(round(cover.rtt * draw(cover.wavers / 2), 3))
        at = min(max(at + random.choice((-1, 1)), 0), len(covers) - 1)
    return Trace(tuple(rates[:SYNTHETIC_S]), tuple(rtts[:SYNTHETIC_S]))
