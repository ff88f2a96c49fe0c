"""`dsi-mqtt deploy --check`: what can be known of a deployment before anybody serves it.

The model is opened as a worker would open it, and where the nodes are known, the planner is asked
as the orchestrator would ask it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable

from dsi_mqtt.cli.common import size, waiting
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.fallback import asked
from dsi_mqtt.core.model import ModelGraph, ModelSpec, UnitRange
from dsi_mqtt.core.node import Capabilities, NodeStatus
from dsi_mqtt.core.plan import Infeasible, Plan, plan
from dsi_mqtt.core.profile import views
from dsi_mqtt.core.room import cache_bytes
from dsi_mqtt.core.rules import check
from dsi_mqtt.core.site import SiteNode
from dsi_mqtt.core.sizes import MIB
from dsi_mqtt.engine.base import Engine
from dsi_mqtt.engine.select import TierFactory
from dsi_mqtt.errors import (
    ConfigError,
    DsiError,
    InfeasibleError,
    SplitError,
    one_sentence,
)
from dsi_mqtt.worker.engines import opened


def check_deployment(
    deployment: Deployment, file: Path, nodes: tuple[SiteNode, ...], nodes_file: Path
) -> None:
    """Tries model, split and rules, and a placement on `nodes` where there are any, and shows them.

    Raises the first thing that is wrong, as the error that says what: of the file, of the model,
    or InfeasibleError with the planner's own sentence.
    """
    sys.path.insert(0, str(file.parent.resolve()))  # where `up` looks for a factory, too
    name = deployment.name
    graph = _tried(deployment, name)
    contradictions = check(deployment, graph)
    if contradictions:
        raise ConfigError(f"{file.name}: {contradictions[0]}")
    found = planned(deployment, graph, nodes, nodes_file) if nodes else None
    other = _fallback_checked(deployment, nodes, nodes_file)
    for note in _strangers(deployment, nodes, nodes_file.name) if nodes else ():
        print(one_sentence(f"note: {name}: {note}"), file=sys.stderr)
    console = Console()
    _show(console, graph, found, nodes_file)
    if other is not None:
        console.print("\nits fallback, where that cannot serve:")
        _show(console, *other, nodes_file)
    print(f"{name} can be deployed")


def _fallback_checked(
    deployment: Deployment, nodes: tuple[SiteNode, ...], nodes_file: Path
) -> tuple[ModelGraph, Plan | None] | None:
    """The fallback as it serves while the model cannot, and alone on `nodes`; None: there is none.

    Raises what is wrong with it, by its fields.
    """
    other = deployment.falls_back_to
    if other is None:
        return None
    name = f"the fallback of {deployment.name}"
    try:
        graph = _tried(other, name)
        wanted = replace(asked(deployment, other, graph), name=name)
        return graph, planned(wanted, graph, nodes, nodes_file) if nodes else None
    except InfeasibleError:
        raise
    except DsiError as error:
        told = str(error).replace("model.path", "fallback.model")
        told = told.replace("model.options", "fallback.options")
        told = told if "fallback" in told else f"fallback: {told}"
        raise type(error)(one_sentence(told)) from None


def _tried(deployment: Deployment, name: str) -> ModelGraph:
    """Its model, opened as a worker would, and tried. name: what it is called meanwhile."""
    with waiting(Console(stderr=True), f"{name}: opening the model") as say:
        engine = opened(deployment, TierFactory())
        _check_repeats(deployment.model, engine.graph)
        _try(engine, name, say)
    return engine.graph


def planned(
    deployment: Deployment, graph: ModelGraph, nodes: tuple[SiteNode, ...], file: Path
) -> Plan:
    """A placement on `nodes`, which stand in `file`, if nothing else runs on them.

    Their speeds are not known and taken for equal. A node without a limit holds everything.
    Raises InfeasibleError.
    """
    caches = cache_bytes(deployment, graph)
    whole = graph.weight_bytes(graph.whole) + caches
    reports = [(_status(node, whole), None) for node in nodes]
    seen = views(reports, graph, deployment.name, caches=caches)
    found = plan(deployment, graph, seen)
    if isinstance(found, Infeasible):
        raise InfeasibleError(
            one_sentence(
                f"{deployment.name} cannot be served on the nodes in {file.name}: {found.sentence}"
            )
        )
    return found


def _status(node: SiteNode, whole: int) -> NodeStatus:
    cap = whole if node.memory_mib is None else int(node.memory_mib * MIB)
    able = Capabilities(weight_bytes=cap)
    return NodeStatus(node.id, "", "online", zone=node.zone, spare=node.spare, capabilities=able)


# --- the model --------------------------------------------------------------------------------


def _check_repeats(model: ModelSpec, graph: ModelGraph) -> None:
    """Every node calls the factory by itself: with weights of chance each would have others."""
    if model.factory is None or model.path is not None:
        return
    if TierFactory().open(model).graph.digest != graph.digest:
        raise SplitError(
            f"model.factory {model.factory} makes other weights at each call, so each node would "
            "have its own; call torch.manual_seed in it, or give trained weights as model.path"
        )


def _try(engine: Engine, name: str, say: Callable[[str], None]) -> None:
    say(f"{name}: verifying that segments equal the whole model")
    engine.verify()
    # Unit by unit, so that a model larger than this machine's memory can be checked too.
    count = len(engine.graph.units)
    for unit in range(count):
        say(f"{name}: loading unit {unit}, {count} in all")
        engine.load(UnitRange(unit, unit + 1))
        engine.drop(UnitRange(unit, unit + 1))


# --- the nodes --------------------------------------------------------------------------------


def _strangers(deployment: Deployment, nodes: tuple[SiteNode, ...], file: str) -> Iterator[str]:
    """Names in the rules that none of `nodes` bears: likely slips of the pen."""
    policy = deployment.policy
    names = [
        (f"split[{i}]", n) for i, part in enumerate(deployment.split or ()) for n in part.nodes
    ]
    names += [(f'policy.pin["{units}"]', node) for units, node in policy.pin.items()]
    names += [("policy.forbid", node) for node in policy.forbid]
    known = {node.id for node in nodes}
    for field, name in names:
        if name not in known:
            yield f"{field} names node {name}, and no node of {file} is that"
    zones = {node.zone for node in nodes}
    for units, named in deployment.privacy.units.items():
        for zone in named:
            if zone not in zones:
                yield f'privacy.units["{units}"] names zone {zone}, and no node of {file} is in it'


# --- what is shown ----------------------------------------------------------------------------


def _show(console: Console, graph: ModelGraph, found: Plan | None, nodes_file: Path) -> None:
    console.print(_units(graph))
    if found is not None:
        console.print(f"\non the nodes in {nodes_file.name}, as long as nothing else runs there:")
        console.print(_chain(found))


def _units(graph: ModelGraph) -> RichTable:
    table = RichTable("unit", "name", "weights", "output", box=None, pad_edge=False)
    for i, unit in enumerate(graph.units):
        table.add_row(str(i), unit.name, size(unit.weight_bytes), size(unit.output_bytes))
    return table


def _chain(found: Plan) -> RichTable:
    shown = RichTable("segment", "units", "node", box=None, pad_edge=False)
    for i, segment in enumerate(found.segments):
        shown.add_row(f"s{i}", str(segment.units), segment.node)
    shown.add_row("door", "", found.door)
    return shown
