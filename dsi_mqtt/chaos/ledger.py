"""What became of every input of one row, and of every fault in it: pure.

Told of all that is asked, answered, read along and retained, with the time of each in seconds. A
row is judged by what its ledger says in the end.

An error is *excused* where no chain was feasible at some time while the input was open.

A fault is *recovered from* at the first correct result (of a generation: the first token) that its
`proof` allows: on a table without its victim, or when the fault itself is over; of one-pass inputs
only those sent after the injection count then.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final, Literal

from dsi_mqtt.chaos.trials import Kind, Proof
from dsi_mqtt.core.table import Stamp

Outcome = Literal["right", "wrong", "error", "excused", "lost"]
RESULTS: Final = "results"
NO_STAMP: Final = Stamp(0, "", 0)


@dataclass(slots=True)
class Injection:
    """One fault as one kind saw it; times are None until it has come to that.

    before: the stamp that was retained then. table_at: since when a table without the victim
    serves. over_at: since when what was done is undone, or done with. gap_s: the longest time
    between two results (two tokens of one generation) that ended while this was the newest fault.
    """

    fault: str
    place: str
    node: str
    proof: Proof
    at: float
    before: Stamp
    detected_at: float | None = None
    table_at: float | None = None
    over_at: float | None = None
    recovered_at: float | None = None
    gap_s: float = 0.0


@dataclass(slots=True)
class _Asked:
    at: float
    outcome: Outcome | None = None


@dataclass(slots=True)
class Ledger:
    """One row. gaps: all times between results, in seconds. tellings: of each input, as anybody
    who reads along sees it, how often its answer was told; contradictions: results other than an
    earlier one of the same input; late_errors: errors told behind a result, which the project's
    client does not show. reasons: of what was no result.
    """

    kind: Kind
    injections: list[Injection] = field(default_factory=list)
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    gaps: list[float] = field(default_factory=list)
    duplicates: int = 0
    regressions: int = 0
    foreign: int = 0
    contradictions: int = 0
    late_errors: int = 0
    caches_left: int = 0
    higher_takes: int = 0
    acknowledged_lost: int = 0
    tellings: Counter[bytes] = field(default_factory=Counter)
    stamp: Stamp = NO_STAMP
    _asked: dict[int, _Asked] = field(default_factory=dict)
    _told: dict[bytes, str] = field(default_factory=dict)
    _last: dict[int | str, float] = field(default_factory=dict)

    # --- inputs and answers -------------------------------------------------------------------

    @property
    def inputs(self) -> int:
        return len(self._asked)

    @property
    def open(self) -> int:
        """Inputs that have no answer yet."""
        return len(self.unanswered())

    def unanswered(self) -> list[int]:
        """Their numbers."""
        return [number for number, asked in self._asked.items() if asked.outcome is None]

    @property
    def results(self) -> int:
        return self.outcomes["right"] + self.outcomes["wrong"]

    def sent(self, number: int, at: float) -> None:
        self._asked[number] = _Asked(at)

    def progressed(self, number: int, at: float) -> None:
        """Tokens of a generation have come."""
        self._gap(number, at)
        self._recovered(self._asked[number].at, at)

    def answered(self, number: int, outcome: Outcome, at: float, reason: str = "") -> None:
        """What an input came to. A second answer to its caller is a duplicate."""
        asked = self._asked[number]
        if asked.outcome is not None:
            self.duplicates += 1
            return
        asked.outcome = outcome
        self.outcomes[outcome] += 1
        if outcome == "right":
            if self.kind == "one-pass":
                self._gap(RESULTS, at)
            self._recovered(asked.at, at)
        elif reason:
            self.reasons[reason] += 1
        self._last.pop(number, None)

    def read_along(self, id_: bytes, said: str | None, *, known: bool = True) -> None:
        """An answer as a plain subscriber saw it. said: the result; None: it is an error.

        A result may be told more than once, and must be the same each time. known: somebody's.
        """
        self.tellings[id_] += 1
        if said is None:
            self.late_errors += id_ in self._told
            return
        self.foreign += not known
        self.contradictions += self._told.setdefault(id_, said) != said

    def pause(self) -> None:
        """Nobody asks for a while: what passes until the next result is no gap."""
        self._last.clear()

    def _gap(self, lane: int | str, at: float) -> None:
        before = self._last.get(lane)
        self._last[lane] = at
        if before is None:
            return
        self.gaps.append(at - before)
        if self.injections:
            newest = self.injections[-1]
            newest.gap_s = max(newest.gap_s, at - before)

    # --- faults -------------------------------------------------------------------------------

    def injected(self, injection: Injection) -> None:
        self.injections.append(injection)

    @property
    def newest(self) -> Injection | None:
        return self.injections[-1] if self.injections else None

    def detected(self, at: float) -> None:
        """Somebody of the system has said something that follows from the newest fault."""
        newest = self.newest
        if newest is not None and newest.detected_at is None:
            newest.detected_at = at

    def ended(self, at: float) -> None:
        """What was done is done with."""
        newest = self.newest
        if newest is not None and newest.over_at is None:
            newest.over_at = at

    def table(
        self, stamp: Stamp, at: float, serving: frozenset[str], computing: frozenset[str]
    ) -> None:
        """A table was retained. stamp: the newest in it. serving: the nodes of what serves;
        computing: those without one that is no more than the door.
        """
        if stamp < self.stamp:
            self.regressions += 1
            return
        self.stamp = stamp
        newest = self.newest
        if newest is None or newest.proof == "end" or stamp <= newest.before:
            return
        self.detected(at)
        there = serving if newest.proof == "table" else computing
        if newest.table_at is None and there and newest.node not in there:
            newest.table_at = at

    def _recovered(self, sent_at: float, at: float) -> None:
        newest = self.newest
        if newest is None or newest.recovered_at is not None:
            return
        since = newest.over_at if newest.proof == "end" else newest.table_at
        if since is None or at < since:
            return
        if newest.proof != "end" or self.kind == "generation" or sent_at >= newest.at:
            newest.recovered_at = at
