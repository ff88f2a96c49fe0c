"""The run behind `dsi-mqtt bench planner`: is what it finds the best, and how long does it take?

Small problems are solved again by trying all and by a linear programme; large ones are timed, with
the share of the score that a better placement could save at most.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Final

from dsi_mqtt.cli import bench_planner_brute, bench_planner_milp
from dsi_mqtt.cli.bench_planner_brute import Solution
from dsi_mqtt.cli.bench_planner_cases import OBJECTIVES, Instance, instance
from dsi_mqtt.core.demand import busiest_ns, latency_ns
from dsi_mqtt.core.formulation import EQUALS, formulate
from dsi_mqtt.core.latencies import percentile
from dsi_mqtt.core.problem import Problem
from dsi_mqtt.core.rules import compile_rules
from dsi_mqtt.core.search import Outcome, best

SCHEMA: Final = "dsi.bench.planner/1"
# Of a search that must prove itself, and of one that is timed.
PROVEN: Final = 100_000
TIMED: Final = 1
# (units, nodes, instances): growth up to a thousand nodes.
SIZES: Final = (
    (20, 8, 50),
    (40, 16, 50),
    (80, 32, 50),
    (80, 100, 20),
    (80, 316, 10),
    (80, 1000, 5),
)
AIM: Final = (80, 32)
REPEATS: Final = 4

Solver = Callable[[Instance], Solution | None]


@dataclass(slots=True)
class Exact:
    """What the planner's answers are worth, against answers found in other ways."""

    solvers: dict[str, int] = field(default_factory=dict)
    gaps: list[float] = field(default_factory=list)
    feasible: int = 0
    agreed: int = 0
    splits: int = 0
    coded: int = 0
    by_objective: dict[str, int] = field(default_factory=dict)

    def compare(self, case: Instance, solver: str, solve: Solver) -> None:
        """Has the other solver look at the same problem."""
        self.solvers[solver] = self.solvers.get(solver, 0) + 1
        self.by_objective[case.objective] = self.by_objective.get(case.objective, 0) + 1
        other, (problem, found) = solve(case), planned(case, PROVEN)
        self.agreed += (other is None) == (found.path is None)
        if other is None:
            return
        self.feasible += 1
        self.splits += other.segments > 1
        self.coded += other.coded
        if found.path is not None:
            self.gaps.append(max(0.0, objective(case, problem, found) / other.value - 1))

    def record(self) -> dict[str, Any]:
        count = sum(self.solvers.values())
        return {
            "instances": count,
            "solvers": self.solvers,
            "feasible": self.feasible,
            "infeasible": count - self.feasible,
            "feasibility_agreed": self.agreed,
            "optimal_is_split": round(self.splits / max(1, self.feasible), 3),
            "codec_binding": round(self.coded / max(1, self.feasible), 3),
            "by_objective": self.by_objective,
            "gap_max": max(self.gaps, default=0.0),
            "gap_median": median(self.gaps) if self.gaps else 0.0,
        }


@dataclass(frozen=True, slots=True)
class Timed:
    """Searches of one size. bound_gap_p95: the share that a better placement could save at most."""

    units: int
    nodes: int
    codecs: int
    zones: int
    deployments: int
    objective: str
    instances: int
    runs: int
    feasible: int
    p50_ms: float
    p95_ms: float
    bound_gap_p50: float
    bound_gap_p95: float


def planned(case: Instance, expansions: int) -> tuple[Problem, Outcome]:
    rules = compile_rules(case.deployment, case.graph)
    problem = formulate(case.graph, rules, case.nodes, {}, case.question)
    return problem, best(problem, case.question.aim, expansions)


def objective(case: Instance, problem: Problem, found: Outcome) -> float:
    """The score in seconds, without what tells equal placements apart."""
    assert found.path is not None  # noqa: S101 - the caller has looked
    if case.objective == "throughput":
        return busiest_ns(problem, found.path) / 1e9
    if case.objective == "cost":
        return found.score / 1e9 - EQUALS * latency_ns(problem, found.path) / 1e9
    return found.score / 1e9


def small(number: int, seed: int) -> tuple[str, Solver, Instance]:
    """Two of three are tried out whole, the larger third is left to the linear programme."""
    kind = OBJECTIVES[number % len(OBJECTIVES)]
    if number % 3 < 2:  # noqa: PLR2004 - thirds
        units, nodes = 3 + number % 2, 2 + number % 3 // 2
        case = instance(seed, units, nodes, 1 + number % 3, kind)
        return "brute_force", bench_planner_brute.solve, case
    case = instance(seed, 5 + number % 3, 3 + number % 2, 1 + number % 3, kind)
    return "milp", bench_planner_milp.solve, case


def compared(instances: int, seed: int, done: Callable[[], None]) -> Exact:
    exact = Exact()
    for number in range(instances):
        solver, solve, case = small(number, seed * 1_000_000 + number)
        exact.compare(case, solver, solve)
        done()
    return exact


def timed(size: tuple[int, int, int], kind: str, seed: int) -> Timed:
    """Seconds of one core, arrays included; the collector of garbage waits."""
    units, nodes, instances = size
    spent, gaps = [], []
    for number in range(instances):
        case = instance(seed * 1_000_000 + number, units, nodes, 4, kind, roomy=True)
        for repeat in range(REPEATS):
            gc.collect()
            begun = time.process_time()
            _, found = planned(case, TIMED)
            spent.append((time.process_time() - begun) * 1000)
            if not repeat and found.path is not None:
                gaps.append(0.0 if found.complete else min(1.0, 1 - found.lower / found.score))
    return Timed(
        units,
        nodes,
        codecs=4,
        zones=3,
        deployments=1,
        objective=kind,
        instances=instances,
        runs=len(spent),
        feasible=len(gaps),
        p50_ms=round(quantile(spent, 0.5), 2),
        p95_ms=round(quantile(spent, 0.95), 2),
        bound_gap_p50=round(quantile(gaps, 0.5), 4),
        bound_gap_p95=round(quantile(gaps, 0.95), 4),
    )


def quantile(values: Iterable[float], share: float) -> float:
    """The least value that `share` of them do not exceed; 0 of none."""
    return percentile(sorted(values), share)


def row(found: Timed) -> dict[str, Any]:
    return asdict(found)
