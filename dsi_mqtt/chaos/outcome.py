"""A row's figures from its ledger, and the whole as JSON (`dsi.chaos/1`): pure.

A row has *passed* when every input had exactly one correct result and nothing was left behind.
How long it took is held against the aims, and said apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from dsi_mqtt.chaos.ledger import Injection, Ledger
from dsi_mqtt.chaos.trials import Aim, Trial, is_whole
from dsi_mqtt.core.latencies import percentile

SCHEMA: Final = "dsi.chaos/1"
_REASONS: Final = 5


@dataclass(frozen=True, slots=True)
class AimMet:
    """value: infinite where it has not come to that in the time there was. met: None where there is
    no figure to hold against the aim.
    """

    aim: Aim
    value: float | None

    @property
    def met(self) -> bool | None:
        return None if self.value is None else self.value <= self.aim.at_most


@dataclass(frozen=True, slots=True)
class Row:
    """One fault and kind. normal_gap_s: 99 % of times between results without any fault."""

    trial: Trial
    ledger: Ledger
    normal_gap_s: float

    @property
    def passed(self) -> bool:
        """An acknowledged input of a plain client may die with the broker: told, but no failure."""
        return self.ledger.inputs > 0 and not self.failures()

    def failures(self) -> dict[str, int]:
        """What of it does not hold, by name."""
        found = self.ledger
        counts = {
            "lost": found.outcomes["lost"] if self.trial.client == "dsi" else 0,
            "errors": found.outcomes["error"],
            "wrong": found.outcomes["wrong"],
            "duplicates": found.duplicates,
            "contradictions": found.contradictions,
            "foreign": found.foreign,
            "epoch regressions": found.regressions,
            "caches left": found.caches_left,
            "without any answer": found.open,
        }
        return {name: count for name, count in counts.items() if count}

    @property
    def is_whole(self) -> bool:
        found = self.ledger
        return is_whole(len(found.injections), found.inputs, found.kind, self.trial.enough)

    def aims(self) -> tuple[AimMet, ...]:
        kind = self.ledger.kind
        return tuple(AimMet(a, self._figure(a)) for a in self.trial.aims if kind in a.kinds)

    def _figure(self, aim: Aim) -> float | None:
        if aim.figure == "pause_max_ms":
            base = self.normal_gap_s if self.ledger.kind == "one-pass" else 0.0
            pauses = [(i.gap_s - base) * 1e3 for i in self.ledger.injections]
            return max(pauses, default=None)
        recovers = aim.figure == "recovery_p95_s"
        ends = [i.recovered_at if recovers else i.table_at for i in self.ledger.injections]
        begins = [i.at for i in self.ledger.injections]
        return share([_since(*each) for each in zip(begins, ends, strict=True)], 0.95)


def _since(begin: float, end: float | None) -> float:
    return math.inf if end is None else end - begin


def share(values: Sequence[float], part: float) -> float | None:
    """What `part` of the values stay within; None of none."""
    return percentile(sorted(values), part) if values else None


def recoveries(injections: Sequence[Injection]) -> list[float]:
    return [i.recovered_at - i.at for i in injections if i.recovered_at is not None]


def tables(injections: Sequence[Injection]) -> list[float]:
    return [i.table_at - i.at for i in injections if i.table_at is not None]


def detections(injections: Sequence[Injection]) -> list[float]:
    return [i.detected_at - i.at for i in injections if i.detected_at is not None]


def row_document(row: Row) -> dict[str, Any]:
    """One of `rows`. Times in the unit named; null: nothing to tell it by.

    deliveries: answers that the plain subscriber saw; repeated: those beyond each input's first.
    foreign: answers that are no input's right one. unrecovered: faults after which nothing came by
    the end of the patience there is; where there are too many an aim has no value, and is not met.
    whole: whether as much was tried as a row should have.
    """
    found, injections = row.ledger, row.ledger.injections
    deliveries = sum(found.tellings.values())
    return {
        "fault": row.trial.fault,
        "target": row.trial.target,
        "client": row.trial.client,
        "site": row.trial.site,
        "kind": found.kind,
        "injections": len(injections),
        "inputs": found.inputs,
        "generations": found.inputs if found.kind == "generation" else 0,
        "results": found.results,
        "errors": found.outcomes["error"],
        "excused": found.outcomes["excused"],
        "lost": found.outcomes["lost"],
        "acknowledged_lost": found.acknowledged_lost,
        "duplicates": found.duplicates,
        "wrong": found.outcomes["wrong"],
        "contradictions": found.contradictions,
        "foreign": found.foreign,
        "late_errors": found.late_errors,
        "deliveries": deliveries,
        "repeated": deliveries - len(found.tellings),
        "higher_takes": found.higher_takes,
        "epoch_regressions": found.regressions,
        "caches_left": found.caches_left,
        "unrecovered": sum(i.recovered_at is None for i in injections),
        "detect_s": _spread(detections(injections), ("p50", "p95")),
        "table_s": _spread(tables(injections), ("p50", "p95")),
        "recovery_s": _spread(recoveries(injections), ("p50", "p95", "max")),
        "gap_ms": {
            "normal": round(row.normal_gap_s * 1e3, 1),
            "max": round(max(found.gaps, default=0.0) * 1e3, 1),
        },
        "aims": [
            {
                "figure": each.aim.figure,
                "at_most": each.aim.at_most,
                "value": _finite(each.value),
                "met": each.met,
            }
            for each in row.aims()
        ],
        "reasons": dict(found.reasons.most_common(_REASONS)),
        "whole": row.is_whole,
        "passed": row.passed,
    }


def _finite(value: float | None) -> float | None:
    return None if value is None or math.isinf(value) else round(value, 3)


def document(
    rows: Sequence[Row], seconds: float, log: str, record: dict[str, Any], broken: Sequence[str]
) -> dict[str, Any]:
    """All of a run. broken: what ended without being asked to, or did not come back."""
    return {
        "schema": SCHEMA,
        **record,
        "seconds": round(seconds, 1),
        "passed": holds(rows, broken),
        "rows": [row_document(row) for row in rows],
        "unexpected": list(broken),
        "log": log,
    }


def holds(rows: Sequence[Row], broken: Sequence[str]) -> bool:
    return bool(rows) and all(row.passed for row in rows) and not broken


def _spread(values: Sequence[float], names: Sequence[str]) -> dict[str, float | None]:
    parts = {"p50": 0.5, "p95": 0.95, "max": 1.0}
    found = {name: share(values, parts[name]) for name in names}
    return {name: None if value is None else round(value, 3) for name, value in found.items()}
