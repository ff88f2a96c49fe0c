"""`dsi-mqtt plan`: what nodes could do for a deployment, side by side; nothing is started."""

from __future__ import annotations

import json as json_module
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table as RichTable

from dsi_mqtt.cli.common import JsonOption, size, waiting
from dsi_mqtt.cli.deploy import say_without_effect
from dsi_mqtt.cli.run_record import run_record
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.joint import Wish, left, together
from dsi_mqtt.core.offers import CHOSEN, Offer, Offers, condition, offers
from dsi_mqtt.core.plan import Plan
from dsi_mqtt.core.policy import Policies, asked
from dsi_mqtt.core.profiled import ModelProfile
from dsi_mqtt.core.site import SiteFile, node_views
from dsi_mqtt.engine.select import TierFactory
from dsi_mqtt.errors import ConfigError, InfeasibleError, one_sentence
from dsi_mqtt.orchestrator.policies import installed_policies
from dsi_mqtt.wire.files import read_nodes, read_site
from dsi_mqtt.wire.profiles import site_profiles
from dsi_mqtt.worker.engines import opened

SCHEMA: Final = "dsi.plan/1"
_WIDE: Final = 200


def plan(
    file: Annotated[Path, typer.Argument(help="The deployment, as YAML.")],
    nodes_file: Annotated[
        Path | None,
        typer.Option("--nodes", help="The nodes; by default those in the deployment's own file."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show what nodes could do for deployments.

    Placements stand side by side, and nothing is started. Each node needs figures: a profile
    (`dsi-mqtt profile`), or what its hardware does. The target is a condition here: what misses it
    is not chosen. Several deployments in one file are planned together, each beside the others.
    """
    deployments, site = read_site(file)
    if nodes_file is not None:
        site = read_nodes(nodes_file)
    if site is None or not site.nodes:
        raise ConfigError(f"{file.name}: names no nodes; give some with --nodes FILE")
    for index, node in enumerate(site.nodes):  # before a model is opened, which takes long
        if not node.compute:
            where = f"{(nodes_file or file).name}: nodes[{index}].compute"
            raise ConfigError(
                f"{where}: is missing, nothing is known of its speed; give {{profile: FILE}} "
                "(`dsi-mqtt profile`), or gflops and memory_gib_s"
            )
    record = run_record("plan")
    sys.path.insert(0, str(file.parent.resolve()))  # where `up` looks for a factory, too
    profiles = site_profiles(site, nodes_file or file)
    policies = installed_policies()
    wishes = [_wish(deployment, site, profiles, policies) for deployment in deployments]
    bound = None
    if len(wishes) > 1:
        joint = together(wishes)
        bound = joint.bound
        wishes = [left(wishes, joint.answers, i) for i in range(len(wishes))]
    shown = [(w.deployment, offers(w.deployment, w.graph, w.nodes)) for w in wishes]
    if json:
        told = [document(*one) for one in shown]
        parts = told[0] if bound is None else {"deployments": told, "bound": bound}
        print(json_module.dumps({"schema": SCHEMA, **record, **parts}))
    else:
        _show_all(shown, bound)
    for deployment, found in shown:
        why = dict(found.refused).get(CHOSEN)
        if why is not None:
            raise InfeasibleError(one_sentence(f"{deployment.name}: {why.sentence}"))


def _wish(
    deployment: Deployment,
    site: SiteFile,
    profiles: Mapping[str, ModelProfile],
    policies: Policies,
) -> Wish:
    say_without_effect(deployment)
    with waiting(Console(stderr=True), f"{deployment.name}: opening the model"):
        graph = opened(deployment, TierFactory()).graph
    views = node_views(site, graph, deployment, profiles)
    deployment = asked(policies, deployment, views)
    return Wish(deployment, graph, views, condition(deployment))


def _show_all(shown: Sequence[tuple[Deployment, Offers]], bound: float | None) -> None:
    """bound: of several that were planned together."""
    for i, (deployment, found) in enumerate(shown):
        if i:
            print()
        _show(deployment, found)
    if bound is not None and bound < 1:
        print(f"\neach beside the others; together they could save {bound:.1%} at most")


def _show(deployment: Deployment, found: Offers) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDE)  # in a file no line is cut
    if found.offers:
        console.print(table(deployment, found))
    for name, why in found.refused:
        if name != CHOSEN:
            console.print(f"{name}: {why.sentence}", markup=False, highlight=False)
    chosen = next((offer for offer in found.offers if CHOSEN in offer.names), None)
    if chosen is not None:
        console.print()
        console.print(picture(chosen.plan), markup=False, highlight=False)
        if len(chosen.plan.segments) == 1:
            console.print("one node alone is best: the model is not split", highlight=False)


def table(deployment: Deployment, found: Offers) -> RichTable:
    """One row for each placement; a star for those that nothing beats in everything."""
    sla = deployment.sla
    grid = RichTable(
        title=f"{deployment.name}: {sla.percentile:g} % of the requests stay within the time told, "
        f"when {deployment.rate_per_s:g} come a second",
        title_justify="left",
    )
    for name in (
        "",
        "best by",
        "segments",
        "time",
        "at most",
        "cost",
        "sends",
        "exposed",
        "why not",
    ):
        grid.add_column(
            name, justify="left" if name in ("best by", "segments", "why not") else "right"
        )
    for offer in found.offers:
        account = offer.plan.account
        assert account is not None  # noqa: S101 - every plan has one
        grid.add_row(
            "*" if offer.best else "",
            ", ".join(offer.names),
            chain(offer.plan),
            "grows" if math.isinf(offer.slow_s) else f"{offer.slow_s * 1000:.1f} ms",
            f"{offer.rate_per_s:.3g}/s",
            f"{account.cost_per_hour:.3g} {deployment.prices.currency}/h",
            size(account.request_bytes),
            f"{account.exposure:.0%}",
            offer.lost,
        )
    return grid


def chain(found: Plan) -> str:
    """As in "0:3 city, 3:8 cloud"."""
    return ", ".join(f"{part.units} {' + '.join(part.nodes)}" for part in found.segments)


def picture(found: Plan) -> str:
    """The way of a request, a line for each part."""
    lines = [f"    device ──► door on {found.door}"]
    for hop, segment in zip(found.hops, found.segments, strict=False):
        if hop.transfer_s:
            codec = ", ".join(name for _, name in hop.codecs) or "raw"
            lines.append(f"      │  {size(hop.nbytes)} {codec}, {hop.transfer_s * 1000:.1f} ms")
        lines.append(
            f"      ▼  {' + '.join(segment.nodes)}: units {segment.units}, "
            f"{segment.compute_s * 1000:.1f} ms"
        )
    last = found.hops[-1]
    back = f", {last.transfer_s * 1000:.1f} ms" if last.transfer_s else ""
    lines.append(f"    device ◄── door on {found.door}: {size(last.nbytes)}{back}")
    return "\n".join(lines)


def document(deployment: Deployment, found: Offers) -> dict[str, Any]:
    """Of `--json`. Times in ms; null where they would grow."""
    return {
        "deployment": deployment.name,
        "currency": deployment.prices.currency,
        "offers": [_offer(offer) for offer in found.offers],
        "refused": [
            {
                "name": name,
                "constraint": why.constraint,
                "field": why.field,
                "message": why.message,
                "remedy": why.remedy,
                "proven": why.proven,
            }
            for name, why in found.refused
        ],
    }


def _offer(offer: Offer) -> dict[str, Any]:
    account, found = offer.plan.account, offer.plan
    assert account is not None  # noqa: S101 - every plan has one
    slow = offer.slow_s
    return {
        "names": list(offer.names),
        "best": offer.best,
        "lost": offer.lost,
        "door": found.door,
        "segments": [
            {
                "units": list(segment.units),
                "node": segment.node,
                "replicas": [[node, weight] for node, weight in segment.replicas],
            }
            for segment in found.segments
        ],
        "codecs": [dict(hop.codecs) for hop in found.hops[1:-1]],
        "idle_ms": found.latency_s * 1000,
        "slow_ms": None if math.isinf(slow) else slow * 1000,
        "rate_per_s": offer.rate_per_s,
        "cost_per_hour": account.cost_per_hour,
        "request_bytes": account.request_bytes,
        "sent_bytes": account.sent_bytes,
        "exposure": account.exposure,
        "exposed": [[str(units), zone] for units, zone in account.exposed],
        "optimal": found.optimal,
        "bound": found.bound,
    }
