"""From what was played to figures: violations, regret, and whether a scenario says anything.

A violation is an input without an answer, answered with an error, or later than the target.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from dsi_mqtt.core.latencies import percentile
from dsi_mqtt.evaluate.playing import SETTLED_S, Played
from dsi_mqtt.evaluate.policies import NAMES, Name

# A scenario is informative when the best fixed placement violates so much at least, and the
# clairvoyant at most one of so many parts of that.
STATIC_MIN: Final = 0.05
CLAIRVOYANT_PARTS: Final = 3
# What is aimed at in informative scenarios, and on constant links.
REGRET_AIM: Final = 1 / 3
P95_AIM: Final = 1.25
CONSTANT_P95_AIM: Final = 1.02

Seed = Mapping[Name, Played]


@dataclass(frozen=True, slots=True)
class Target:
    """latency_s: later is a violation. deadline_s: what an input without a result counts as."""

    latency_s: float
    deadline_s: float


@dataclass(frozen=True, slots=True)
class Row:
    """One policy over all seeds of a scenario. Latencies are of all inputs, in ms."""

    policy: Name
    answered: int
    failed: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    violations: int
    violation_share: float
    bytes: int
    cost: float
    moves: dict[str, int]
    decision_ms: dict[str, float] | None
    control_bytes: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """Medians over seeds. None: the scenario does not say it.

    regret: of violations. p95_over_causal: adaptive over the causal oracle. late_moves: of
    adaptive, after `SETTLED_S`, in all seeds. p95_over_start, p95_over_best: over static-start and
    static-hindsight. recuts: of the clairvoyant.
    """

    informative: bool
    regret: float | None
    p95_over_causal: float | None
    p95_over_start: float | None
    p95_over_best: float | None
    late_moves: int
    recuts: float | None


def row_of(policy: Name, seeds: Sequence[Seed], target: Target) -> Row | None:
    """None: nobody played it."""
    played = [seed[policy] for seed in seeds if policy in seed]
    if not played:
        return None
    took = sorted(value for each in played for value in each.took_s(target.deadline_s))
    asked = sum(each.asked for each in played)
    answered = sum(len(each.latencies_s) for each in played)
    violations = sum(each.violations(target.latency_s) for each in played)
    deciding = sorted(value for each in played for value in each.deciding_s)
    return Row(
        policy,
        answered,
        asked - answered,
        percentile(took, 0.5) * 1e3,
        percentile(took, 0.95) * 1e3,
        percentile(took, 0.99) * 1e3,
        violations,
        violations / asked if asked else 0.0,
        sum(each.nbytes for each in played),
        sum(each.cost for each in played),
        {kind: sum(each.moves(kind) for each in played) for kind in ("remap", "resplit")},
        {name: percentile(deciding, part) * 1e3 for name, part in (("p50", 0.5), ("p95", 0.95))}
        if deciding
        else None,
        sum(each.control_bytes for each in played),
    )


def rows_of(seeds: Sequence[Seed], target: Target) -> tuple[Row, ...]:
    rows = (row_of(policy, seeds, target) for policy in NAMES)
    return tuple(row for row in rows if row is not None)


def verdict_of(seeds: Sequence[Seed], target: Target) -> Verdict:
    shares = {
        name: median(share_of(seed[name], target) for seed in seeds)
        for name in NAMES
        if seeds and all(name in seed for seed in seeds)
    }
    informative = is_informative(shares.get("static-hindsight"), shares.get("clairvoyant"))
    return Verdict(
        informative,
        _median(regret_of(seed, target) for seed in seeds),
        _median(_p95_over(seed, "causal-oracle", target) for seed in seeds),
        _median(_p95_over(seed, "static-start", target) for seed in seeds),
        _median(_p95_over(seed, "static-hindsight", target) for seed in seeds),
        sum(
            seed["adaptive"].moves(kind, SETTLED_S)
            for seed in seeds
            for kind in ("remap", "resplit")
        ),
        _median(
            float(seed["clairvoyant"].moves("resplit")) if "clairvoyant" in seed else None
            for seed in seeds
        ),
    )


def is_informative(static: float | None, clairvoyant: float | None) -> bool:
    """By their shares of violations."""
    if static is None or clairvoyant is None:
        return False
    return static >= STATIC_MIN and clairvoyant * CLAIRVOYANT_PARTS <= static


def regret_of(seed: Seed, target: Target) -> float | None:
    """(adaptive - causal) / (best fixed - causal); None where causal is no better than fixed."""
    needed: tuple[Name, ...] = ("adaptive", "causal-oracle", "static-hindsight")
    if any(name not in seed for name in needed):
        return None
    adaptive, causal, fixed = (seed[name].violations(target.latency_s) for name in needed)
    return (adaptive - causal) / (fixed - causal) if fixed > causal else None


def share_of(played: Played, target: Target) -> float:
    return played.violations(target.latency_s) / played.asked if played.asked else 0.0


def _p95_over(seed: Seed, other: Name, target: Target) -> float | None:
    if other not in seed or "adaptive" not in seed:
        return None
    below = percentile(seed[other].took_s(target.deadline_s), 0.95)
    return percentile(seed["adaptive"].took_s(target.deadline_s), 0.95) / below if below else None


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
