"""The run behind `dsi-mqtt bench decode`: `generate`, one segment and three, in turn.

All is up from the first repeat to the last: the process of plain transformers, a site with a node
for the single segment and one for each of three, two deployments of one model. Only one series
works at a time. benchmarks/METHODOLOGY.md says what is timed.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final, Self

from dsi_mqtt.cli.bench_decode_plan import (
    CHAIN,
    SEGMENTS,
    SESSIONS,
    SINGLE,
    DecodePlan,
    check_room,
)
from dsi_mqtt.cli.bench_statistics import rate_at_once
from dsi_mqtt.cli.child import Child, check_ended, program
from dsi_mqtt.cli.common import ROOT, control_connection
from dsi_mqtt.cli.deploy import publish_spec, until_serving
from dsi_mqtt.cli.site import Site, running_site
from dsi_mqtt.client import Client
from dsi_mqtt.errors import DsiError
from dsi_mqtt.transport.together import first_of
from dsi_mqtt.wire.topics import Topics

SCHEMA: Final = "dsi.bench.decode/1"
DTYPE: Final = "float32"
THREADS: Final = 1
START_S: Final = 900.0
ASK_S: Final = 1800.0
WARM_TOKENS: Final = 8

# Not imported, for it imports torch.
_PLAIN: Final = (sys.executable, "-m", "dsi_mqtt.cli.bench_decode_plain")
_READY: Final = "ready"

Tokens = tuple[int, ...]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Series:
    """name: its key in the report. deployment: None is plain transformers."""

    name: str
    deployment: str | None
    sessions: int = 1


GENERATE: Final = Series("generate_tok_s", None)
ONE: Final = Series("single_tok_s", SINGLE)
THREE: Final = Series("chain_tok_s", CHAIN)
MANY: Final = Series("chain_sessions8_tok_s", CHAIN, SESSIONS)
SERIES: Final = (GENERATE, ONE, THREE, MANY)


@dataclass(frozen=True, slots=True)
class Told:
    """One generation as its caller saw it. times_s: when each token was there."""

    tokens: Tokens
    times_s: tuple[float, ...]


@dataclass(slots=True)
class DecodeReport:
    """pids: of the chain's workers. rates: by series, one for each repeat.

    told: by series and prompt, the tokens of every repeat.
    """

    pids: tuple[int, ...]
    rates: dict[Series, list[float]] = field(default_factory=lambda: {s: [] for s in SERIES})
    told: dict[Series, dict[int, set[Tokens]]] = field(
        default_factory=lambda: {s: {} for s in SERIES}
    )

    def note(self, series: Series, numbers: Sequence[int], told: Sequence[Told]) -> None:
        for number, one in zip(numbers, told, strict=True):
            self.told[series].setdefault(number, set()).add(one.tokens)

    def differing(self) -> tuple[str, ...]:
        """What does not have the tokens that `generate` has, each as part of a sentence."""
        found = []
        for series, told in self.told.items():
            for number, tokens in sorted(told.items()):
                if tokens != self.told[GENERATE].get(number) or len(tokens) != 1:
                    found.append(f"{series.name.removesuffix('_tok_s')} of prompt {number}")
        return tuple(found)

    def median(self, series: Series) -> float:
        return median(self.rates[series])

    def ratios(self, series: Series, through: Series) -> list[float]:
        """Of neighbours, repeat by repeat."""
        pairs = zip(self.rates[series], self.rates[through], strict=True)
        return [rate / other for rate, other in pairs]


async def run_decode(
    plan: DecodePlan, *, say: Say, progressed: Callable[[Series], None]
) -> DecodeReport:
    """Makes the model and measures; leaves no process and no folder behind.

    Raises MachineError where disk or memory does not suffice.
    """
    with tempfile.TemporaryDirectory(prefix="dsi-bench-") as name:
        folder = Path(name)
        check_room(plan, folder)
        say(f"writing {plan.shape.name} with random weights")
        await _write(plan, folder)
        model = {"path": str(folder), "tier": "layer", "dtype": DTYPE}
        plain = (*_PLAIN, "generate", str(folder))
        return await measure(plan, model, plain, say=say, progressed=progressed)


async def measure(
    plan: DecodePlan,
    model: dict[str, Any],
    plain: Sequence[str],
    *,
    say: Say,
    progressed: Callable[[Series], None],
) -> DecodeReport:
    """model: of both deployments, as in a file. plain: the program that answers as `generate`."""
    died: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def ended(child: Child, code: int) -> None:
        if not died.done():
            died.set_exception(DsiError(f"bench decode: {child.name} ended with {code}"))

    async with _Plain.started(plain) as generate:
        say("loading the model for generate")
        await generate.ready()
        async with running_site(
            plan.nodes, root=ROOT, port=0, data_port=0, state=None, restart=False, ended=ended
        ) as site:

            async def work() -> DecodeReport:
                say("starting the nodes; PyTorch takes a while")
                report = DecodeReport(await _serve(site, plan, model))
                sides = _Sides(plan, generate, site.url)
                say("warming up")
                for series in SERIES:
                    few = min(WARM_TOKENS, plan.new_tokens)
                    await sides.ask(series, range(series.sessions), few)
                await _measure(plan, sides, report, progressed)
                return report

            working = asyncio.create_task(work())
            await first_of(_wait(working), _wait(died))
            return working.result()


async def _wait(ended: asyncio.Future[Any]) -> None:
    await ended


async def _measure(
    plan: DecodePlan, sides: _Sides, report: DecodeReport, progressed: Callable[[Series], None]
) -> None:
    """In turn, so that what neighbours of this machine do hits all alike."""
    for repeat in range(plan.repeats):
        for series in SERIES:
            first = repeat % SESSIONS if series.sessions == 1 else 0
            numbers = range(first, first + series.sessions)
            told = await sides.ask(series, numbers, plan.new_tokens)
            report.note(series, numbers, told)
            report.rates[series].append(_rate(told))
            progressed(series)
    # Of the prompts whose turn did not come alone, `generate` says only what their tokens are.
    for number in sorted(set(range(SESSIONS)) - report.told[GENERATE].keys()):
        told = await sides.ask(GENERATE, (number,), plan.new_tokens)
        report.note(GENERATE, (number,), told)


def _rate(told: Sequence[Told]) -> float:
    try:
        return rate_at_once([one.times_s for one in told])
    except ValueError:
        raise DsiError(
            "bench decode: a session had ended before another began; raise --new-tokens"
        ) from None


class _Sides:
    """Whom a series is asked of."""

    def __init__(self, plan: DecodePlan, generate: _Plain, url: str) -> None:
        self._prompts = plan.prompts
        self._generate = generate
        self._url = url

    async def ask(self, series: Series, numbers: Sequence[int], new_tokens: int) -> list[Told]:
        """One generation for each of the prompts, all at once."""
        prompts = [self._prompts[number] for number in numbers]
        name = series.deployment
        if name is None:
            return [await self._generate.ask(prompt, new_tokens) for prompt in prompts]
        # A device of its own for each turn: none may find its prompt in a kept cache.
        async with Client(self._url) as client:
            asked = (_told(client, name, prompt, new_tokens) for prompt in prompts)
            return await asyncio.gather(*asked)


async def _told(client: Client, name: str, prompt: Tokens, new_tokens: int) -> Told:
    tokens: list[int] = []
    times: list[float] = []
    asked = client.generate(name, prompt, max_tokens=new_tokens, temperature=0.0, timeout_s=ASK_S)
    async for piece in asked:
        tokens += piece.tokens
        times += [time.perf_counter()] * len(piece.tokens)
    return Told(tuple(tokens), tuple(times))


class _Plain:
    """The process of plain transformers; answers one ask at a time."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @classmethod
    @asynccontextmanager
    async def started(cls, command: Sequence[str]) -> AsyncIterator[Self]:
        async with program(*command, stdin=PIPE) as process:
            yield cls(process)

    async def ready(self) -> None:
        if await self._line() != _READY:
            raise DsiError("bench decode: generate says something else than that it is ready")

    async def ask(self, prompt: Tokens, new_tokens: int) -> Told:
        ask = json.dumps({"prompt": prompt, "new_tokens": new_tokens}) + "\n"
        assert self._process.stdin is not None  # noqa: S101 - opened with one
        self._process.stdin.write(ask.encode())
        answer = json.loads(await self._line())
        return Told(tuple(answer["tokens"]), tuple(answer["times_s"]))

    async def _line(self) -> str:
        assert self._process.stdout is not None  # noqa: S101 - opened with one
        line = await self._process.stdout.readline()
        if not line:
            _, complaint = await self._process.communicate()
            check_ended("bench decode: generate", self._process, complaint)
            raise DsiError("bench decode: generate ended early")
        return line.decode().strip()


async def _write(plan: DecodePlan, folder: Path) -> None:
    config = json.dumps(plan.shape.config(plan.positions))
    async with program(*_PLAIN, "write", str(folder), config, str(plan.seed)) as process:
        _, complaint = await process.communicate()
        check_ended("bench decode: writing the model", process, complaint)


async def _serve(site: Site, plan: DecodePlan, model: dict[str, Any]) -> tuple[int, ...]:
    """Deploys both; the processes of the chain's segments."""
    topics, nodes = Topics(ROOT), frozenset(site.workers)
    deployments = plan.deployments(model)
    async with control_connection(site.url) as connection:
        for deployment in deployments:
            await publish_spec(connection, topics, deployment)
    pids: tuple[int, ...] = ()
    for deployment in deployments:
        async with control_connection(site.url) as connection:
            table = await until_serving(connection, topics, deployment, START_S, nodes=nodes)
        pids = tuple(site.workers[part.replicas[0].node].pid for part in table.segments)
    if len(set(pids)) != SEGMENTS:
        raise DsiError(f"bench decode: the chain runs in {len(set(pids))} processes, not in three")
    return pids


def document(record: dict[str, Any], plan: DecodePlan, report: DecodeReport) -> dict[str, Any]:
    """The JSON object."""
    return {
        "schema": SCHEMA,
        **record,
        "shape": plan.shape.name,
        "params": plan.shape.params,
        "dtype": DTYPE,
        "threads_per_segment": THREADS,
        "segments": SEGMENTS,
        "pids": list(report.pids),
        "prompt_tokens": plan.prompt_tokens,
        "new_tokens": plan.new_tokens,
        "repeats": plan.repeats,
        "tokens_equal": not report.differing(),
        **{series.name: round(report.median(series), 2) for series in SERIES},
        "spread": {
            series.name: [round(min(rates), 2), round(max(rates), 2)]
            for series, rates in report.rates.items()
        },
    }
