"""The whole of an evaluation as one value: what `--json` prints and the report shows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from dsi_mqtt.errors import ConfigError
from dsi_mqtt.evaluate import scenarios
from dsi_mqtt.evaluate.playing import SETTLED_S, Traces
from dsi_mqtt.evaluate.running import Results
from dsi_mqtt.evaluate.scoring import (
    Row,
    Seed,
    Target,
    Verdict,
    regret_of,
    rows_of,
    share_of,
    verdict_of,
)

SCHEMA: Final = "dsi.evaluate/1"


@dataclass(frozen=True, slots=True)
class Recording:
    """One file of recorded links. gaps_filled: seconds that it does not speak of."""

    file: str
    sha256: str
    rows: int
    gaps_filled: int


@dataclass(frozen=True, slots=True)
class Judged:
    """A scenario, by all its seeds."""

    scenario: str
    about: str
    duration_s: float
    target: Target
    percentile: float
    seeds: tuple[Seed, ...]
    rows: tuple[Row, ...]
    verdict: Verdict

    @property
    def constant(self) -> bool:
        return scenarios.is_constant(self.scenario)

    @property
    def requests(self) -> int:
        return sum(seed["adaptive"].asked for seed in self.seeds)

    @property
    def seeds_told(self) -> str:
        return "1 seed" if len(self.seeds) == 1 else f"{len(self.seeds)} seeds"

    def row(self, policy: str) -> Row | None:
        return next((row for row in self.rows if row.policy == policy), None)


def recordings(folder: Path, traces: Traces) -> tuple[Recording, ...]:
    """What a person needs to know which links were played. Raises ConfigError."""
    try:
        return tuple(
            Recording(
                f"{name}.csv",
                hashlib.sha256((folder / f"{name}.csv").read_bytes()).hexdigest(),
                trace.rows,
                trace.gaps_filled,
            )
            for name, trace in sorted(traces.items())
        )
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot be read: {error.strerror}") from None


def judged(results: Results) -> tuple[Judged, ...]:
    return tuple(_judged(name, seeds) for name, seeds in results.items())


def _judged(name: str, seeds: Sequence[Seed]) -> Judged:
    site, chosen = scenarios.site_of(name), scenarios.scenario(name, 1)
    sla = site.deployment.sla
    target = Target((sla.latency_ms or 0.0) / 1e3, site.deployment.deadline_s)
    return Judged(
        name,
        site.about,
        chosen.duration_s,
        target,
        sla.percentile,
        tuple(seeds),
        rows_of(seeds, target),
        verdict_of(seeds, target),
    )


def as_json(files: Sequence[Recording], found: Sequence[Judged]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "traces": [asdict(each) for each in files],
        "policy": asdict(scenarios.POLICY),
        "scenarios": [_scenario(each) for each in found],
    }


def _scenario(each: Judged) -> dict[str, Any]:
    verdict = each.verdict
    return {
        "scenario": each.scenario,
        "constant": each.constant,
        "seeds": len(each.seeds),
        "requests": each.requests,
        "duration_s": each.duration_s,
        "sla": {"latency_ms": each.target.latency_s * 1e3, "percentile": each.percentile},
        "informative": verdict.informative,
        "policies": [asdict(row) for row in each.rows],
        "regret": verdict.regret,
        "p95_over_causal": verdict.p95_over_causal,
        "p95_over_static": verdict.p95_over_start,
        "p95_over_best_static": verdict.p95_over_best,
        "moves_after_s": SETTLED_S,
        "moves_after": verdict.late_moves,
        "clairvoyant_resplits": verdict.recuts,
        "by_seed": [_seed(seed, each.target) for seed in each.seeds],
    }


def _seed(seed: Seed, target: Target) -> dict[str, Any]:
    return {
        "requests": seed["adaptive"].asked,
        "violation_share": {name: share_of(played, target) for name, played in seed.items()},
        "regret": regret_of(seed, target),
        "placements": {name: p.placement for name, p in seed.items() if p.placement},
    }
