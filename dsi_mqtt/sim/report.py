"""What came of a simulation, as plain values: what `--json` prints and a table shows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from dsi_mqtt.core.latencies import percentile
from dsi_mqtt.core.sizes import KIB, MIB
from dsi_mqtt.sim.devices import Answers
from dsi_mqtt.sim.simulation import Decision, Simulation


@dataclass(frozen=True, slots=True)
class Latency:
    """Of results, in ms, from the broker that has the input to the broker that has the answer."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class Part:
    """One segment of the table that serves at the end."""

    units: str
    node: str


@dataclass(frozen=True, slots=True)
class TextsReport:
    """first_token: from the input to it. token: the mean of a text. pause: a text's longest.

    wrong: of other tokens than were to be drawn, or not to their end.
    """

    tokens: int
    wrong: int
    first_token: Latency | None
    token: Latency | None
    pause: Latency | None


@dataclass(frozen=True, slots=True)
class DeploymentReport:
    """abandoned: inputs that had no answer while their device waited. repeated: answers that came
    more than once, which devices drop. forecast: of the table that serves at the end. texts: of a
    generation.
    """

    deployment: str
    state: str
    inputs: int
    results: int
    errors: dict[str, int]
    abandoned: int
    repeated: int
    latency: Latency | None
    forecast: dict[str, float] | None
    segments: tuple[Part, ...]
    door: str | None
    moves: int
    texts: TextsReport | None = None


@dataclass(frozen=True, slots=True)
class NodeReport:
    """busy: share of the time that it computed. *_mib: of messages in order, by direction.

    control_kib: both ways, of statuses, tables, telemetry and acknowledgements.
    """

    node: str
    computed: int
    busy: float
    up_mib: float
    down_mib: float
    control_kib: float


@dataclass(frozen=True, slots=True)
class Report:
    """journal: digest of every event. events: that happened on the clock. notices: what else the
    orchestrator had to say.
    """

    seed: int
    simulated_s: float
    events: int
    journal: str
    deployments: tuple[DeploymentReport, ...]
    nodes: tuple[NodeReport, ...]
    decisions: tuple[Decision, ...]
    notices: tuple[Decision, ...]

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def report_of(run: Simulation) -> Report:
    """Behind its end."""
    return Report(
        run.scenario.seed,
        run.clock.now,
        run.clock.happened,
        run.journal.digest,
        tuple(_deployment(run, name) for name in run.outcome.answers),
        tuple(_node(run, name) for name in run.nodes),
        tuple(run.outcome.decisions),
        tuple(run.outcome.notices),
    )


def _deployment(run: Simulation, name: str) -> DeploymentReport:
    answers, table = run.outcome.answers[name], run.outcome.serving(name)
    return DeploymentReport(
        name,
        table.state if table is not None else "not placed",
        answers.asked,
        len(answers.latencies_s),
        dict(sorted(answers.errors.items())),
        answers.abandoned,
        answers.repeated,
        latency_of(answers.latencies_s),
        asdict(table.forecast) if table is not None and table.forecast is not None else None,
        tuple(Part(str(s.units), s.replicas[0].node) for s in table.segments) if table else (),
        table.door.node if table is not None and table.door is not None else None,
        run.outcome.moves(name),
        texts_of(answers) if answers.first_s else None,
    )


def texts_of(answers: Answers) -> TextsReport:
    return TextsReport(
        answers.tokens,
        answers.wrong,
        latency_of(answers.first_s),
        latency_of(answers.token_s),
        latency_of(answers.pause_s),
    )


def latency_of(seconds: Iterable[float]) -> Latency | None:
    """None where there is nothing."""
    ordered = sorted(seconds)
    if not ordered:
        return None

    def share(part: float) -> float:
        return percentile(ordered, part) * 1e3

    return Latency(share(0.5), share(0.95), share(0.99), ordered[-1] * 1e3)


def _node(run: Simulation, name: str) -> NodeReport:
    node = run.nodes[name]
    up, down = node.link.up, node.link.down
    control = up.control_bytes + down.control_bytes + node.heard_bytes()
    return NodeReport(
        name,
        node.processor.computed,
        node.processor.busy_s / run.clock.now if run.clock.now else 0.0,
        up.nbytes / MIB,
        down.nbytes / MIB,
        control / KIB,
    )
