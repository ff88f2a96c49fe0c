"""Puts a standing system up, and runs the trials on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from dsi_mqtt.chaos.ground import carried
from dsi_mqtt.chaos.journal import Journal
from dsi_mqtt.chaos.layouts import LAYOUTS, Layout
from dsi_mqtt.chaos.leaders import Leaders
from dsi_mqtt.chaos.load import Load
from dsi_mqtt.chaos.outcome import Row
from dsi_mqtt.chaos.plain import PlainClient
from dsi_mqtt.chaos.reference import Reference, deployments
from dsi_mqtt.chaos.running import NORMAL_S, Run
from dsi_mqtt.chaos.trials import SiteName, Trial, budgets
from dsi_mqtt.chaos.watcher import Watcher
from dsi_mqtt.cli.chaos_site import ORCHESTRATORS, ChaosSite, chaos_site, start_second
from dsi_mqtt.cli.common import ROOT, control_connection
from dsi_mqtt.cli.deploy import publish_spec, until_serving
from dsi_mqtt.client import Client
from dsi_mqtt.errors import MachineError
from dsi_mqtt.sim.traces import Trace
from dsi_mqtt.wire.topics import Topics

START_S: Final = 120.0
# Of a short run, at most so much goes into what is measured without faults.
NORMAL_SHARE: Final = 0.1


@dataclass(frozen=True, slots=True)
class ChaosPlan:
    """trials: none of them are faults at random. traces: of links, by name."""

    trials: tuple[Trial, ...]
    seconds: float
    seed: int
    folder: Path
    traces: Mapping[str, Trace]


async def run_chaos(plan: ChaosPlan, journal: Journal) -> tuple[list[Row], list[str]]:
    """The rows, and what was not as it should be besides. Raises DsiError."""
    journal.say("computing the reference with the whole model")
    reference = Reference(plan.seed)
    rows: list[Row] = []
    broken: list[str] = []
    for name, part in by_site(plan):
        found, unasked = await _on_site(name, part, reference, journal)
        rows += found
        broken += unasked
    return rows, broken


def by_site(plan: ChaosPlan) -> list[tuple[SiteName, ChaosPlan]]:
    """What is tried on each site, with its share of the time.

    Where links are recorded ones, each node has an equal for all faults: else a chain whose spares
    are better off would have to stay where it is.
    """
    if not plan.trials:
        return [("equals" if plan.traces else "spares", plan)]
    shares = budgets(plan.trials, plan.seconds)
    found: dict[SiteName, tuple[list[Trial], list[float]]] = {}
    for trial, share_s in zip(plan.trials, shares, strict=True):
        site: SiteName = "equals" if plan.traces else trial.site
        trials, seconds = found.setdefault(site, ([], []))
        trials.append(replace(trial, site=site))
        seconds.append(share_s)
    return [
        (
            site,
            replace(plan, trials=tuple(trials), seconds=sum(seconds), folder=plan.folder / site),
        )
        for site, (trials, seconds) in found.items()
    ]


async def _on_site(
    name: SiteName, plan: ChaosPlan, reference: Reference, journal: Journal
) -> tuple[list[Row], list[str]]:
    topics, layout = Topics(ROOT), LAYOUTS[name]
    runs: list[Run] = []

    def ended(name: str, code: int) -> None:
        for each in runs:
            each.process_ended(name, code)

    journal.say(f"starting brokers, orchestrators and nodes: {name}")
    async with (
        chaos_site(
            layout.nodes, plan.folder, ended, dict(plan.traces), root=ROOT, seed=plan.seed
        ) as site,
        Watcher(
            site.url, topics, reference.known, journal, layout=layout, carried=lambda: carried(site)
        ) as watcher,
        Client(site.url, device="chaos") as client,
    ):
        leaders = await _standing(site, layout, watcher, topics)
        load = Load(
            client,
            reference,
            journal,
            watcher.nudge,
            feasible_since=lambda: watcher.feasible_since,
            carried_since=lambda: watcher.carried_since,
        )
        plain = PlainClient(site.url, topics, reference, journal)
        under_trial = Run(site, layout, watcher, leaders, load, plain, journal, topics, plan.seed)
        runs.append(under_trial)
        try:
            return await _tried(under_trial, plan), under_trial.broken
        finally:
            runs.clear()
            await under_trial.close()
            journal.flush()


async def _standing(site: ChaosSite, layout: Layout, watcher: Watcher, topics: Topics) -> Leaders:
    """Everything serves, and a second orchestrator stands by."""
    for spec in deployments(layout):
        async with control_connection(site.url) as connection:
            await publish_spec(connection, topics, spec)
            await until_serving(connection, topics, spec, START_S, nodes=frozenset(site.nodes))
    leaders = Leaders(ORCHESTRATORS, watcher)
    led = await watcher.until(
        lambda: watcher.leader is not None and watcher.leader.beat > 0, START_S
    )
    if not led:
        raise MachineError("no orchestrator leads; is this machine overloaded?")
    leaders.note()
    await start_second(site, ROOT)
    return leaders


async def _tried(under_trial: Run, plan: ChaosPlan) -> list[Row]:
    normal_s = min(NORMAL_S, plan.seconds * NORMAL_SHARE)
    await under_trial.undisturbed(normal_s)
    left_s = plan.seconds - normal_s
    if plan.trials:
        return await under_trial.trials(plan.trials, left_s)
    return await under_trial.mixed(left_s)
