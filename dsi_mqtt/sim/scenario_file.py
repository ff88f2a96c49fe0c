"""Scenario files: YAML, validated, every error one sentence that names its field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter

from dsi_mqtt.core import deployment as deployment_schema
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.rules import check
from dsi_mqtt.errors import ConfigError
from dsi_mqtt.sim.engine import graph_of
from dsi_mqtt.sim.scenario import SCHEMA, Fault, Operation, Requests, Scenario
from dsi_mqtt.wire.files import FORBID, deployment_of, read_yaml, validated
from dsi_mqtt.wire.topics import check_name

NODES_MAX: Final = 10_000
_FAULTS: Final = "kill, freeze, cut, throttle, orchestrator and broker"
_OPERATIONS: Final = "drain, deploy and undeploy"
# Between which bounds a figure lies, and whether the lower one is out.
_BOUNDS: Final[Mapping[str, tuple[float, float, bool]]] = {
    "duration_s": (0.0, 1e7, True),
    "open_s": (0.0, 1e4, False),
    "orchestrators": (1, 8, False),
    "count": (1, NODES_MAX, False),
    "memory_mib": (0.0, 1e9, True),
    "gflops": (0.0, 1e9, True),
    "memory_gib_s": (0.0, 1e9, True),
    "overhead_ms": (0.0, 1e6, False),
    "slowdown": (0.0, 1e6, True),
    "spread": (0.0, 10.0, False),
    "load_mib_s": (0.0, 1e9, True),
    "up_mbit_s": (0.0, 1e9, True),
    "down_mbit_s": (0.0, 1e9, True),
    "rtt_ms": (0.0, 1e6, False),
    "rate_per_s": (0.0, 1e6, True),
    "from_s": (0.0, 1e7, False),
    "until_s": (0.0, 1e7, True),
    "bytes": (0, 1e9, False),
    "prompt_tokens": (1, 1e6, False),
    "new_tokens": (1, 1e6, False),
    "text_spread": (0.0, 10.0, False),
    "burst": (1, 10_000, False),
    "period_s": (0.0, 1e9, True),
    "swing": (0.0, 1.0, False),
    "at_s": (0.0, 1e7, False),
    "for_s": (0.0, 1e7, True),
    "factor": (0.0, 1e6, True),
}


@cache
def _scenarios() -> TypeAdapter[tuple[Scenario]]:
    return TypeAdapter(tuple[Scenario], config=FORBID)


def read_scenario(path: Path) -> Scenario:
    """Raises ConfigError naming file and field."""
    documents = read_yaml(path)
    if len(documents) > 1:
        raise ConfigError(f"{path.name}: holds {len(documents)} documents; a scenario is one")
    return scenario_of(documents[0], path)


def scenario_of(document: dict[str, Any], path: Path) -> Scenario:
    """Validates one YAML document. Deployments in it are as in a file of their own."""
    given, operations = document.get("deployments"), document.get("operations")
    if isinstance(given, list):
        deployments = [_deployment(each, f"deployments[{i}]", path) for i, each in enumerate(given)]
        document = {**document, "deployments": deployments}
    if isinstance(operations, list):
        read = [_operation(each, f"operations[{i}]", path) for i, each in enumerate(operations)]
        document = {**document, "operations": read}
    return validated(document, path.name, SCHEMA, _scenarios(), _check)


def _operation(given: object, field_name: str, path: Path) -> object:
    if not isinstance(given, dict) or "deploy" not in given:
        return given
    return {**given, "deploy": _deployment(given["deploy"], f"{field_name}.deploy", path)}


def _deployment(given: object, field_name: str, path: Path) -> object:
    if not isinstance(given, dict):
        return given
    named = {"schema": deployment_schema.SCHEMA, **given}
    return deployment_of(named, path.with_name(f"{path.name}: {field_name}"))


def _check(scenario: Scenario) -> None:
    if not scenario.nodes:
        raise ConfigError("nodes: is empty; name one at least, like {id: gateway, count: 3}")
    _check_figures("", scenario)
    names: list[str] = []
    for i, group in enumerate(scenario.nodes):
        _check_figures(f"nodes[{i}].", group)
        _check_figures(f"nodes[{i}].link.", group.link)
        check_name(group.zone, f"nodes[{i}].zone")
        check_name(group.names()[-1], f"nodes[{i}].id")
        names += group.names()
    if len(names) > NODES_MAX:
        raise ConfigError(f"nodes: are {len(names)}; {NODES_MAX} are the most")
    if len(set(names)) < len(names):
        raise ConfigError("nodes: two nodes have the same name; give their groups other ids")
    for i, deployment in enumerate(scenario.deployments):
        _check_deployment(f"deployments[{i}]", deployment)
    known = [deployment.name for deployment in scenario.deployments]
    if len(set(known)) < len(known):
        raise ConfigError("deployments: two of them have the same name")
    for i, operation in enumerate(scenario.operations):
        _check_operation(f"operations[{i}]", operation, scenario, frozenset(names))
    for i, requests in enumerate(scenario.requests):
        _check_requests(f"requests[{i}]", requests, scenario)
    for i, fault in enumerate(scenario.faults):
        _check_fault(f"faults[{i}]", fault, frozenset(names))


def _check_figures(path: str, part: object) -> None:
    for field in fields(part):  # type: ignore[arg-type]  # the scenario's dataclasses only
        value = getattr(part, field.name)
        bounds = _BOUNDS.get(field.name)
        if bounds is None or value is None:
            continue
        low, high, above = bounds
        if not (value > low if above else value >= low):  # also not a number
            least = f"greater than {low:g}" if above else f"{low:g} or more"
            raise ConfigError(f"{path}{field.name}: {value} must be {least}")
        if value > high:
            raise ConfigError(f"{path}{field.name}: {value} must be at most {high:,.0f}")


def _check_deployment(path: str, deployment: Deployment) -> None:
    if deployment.model.tier != "fake":
        raise ConfigError(
            f"{path}.model.tier: {deployment.model.tier} computes; a simulation takes tier fake, "
            "whose options say what units cost and weigh"
        )
    wrong = check(deployment, graph_of(deployment))
    if wrong:
        raise ConfigError(f"{path}: {wrong[0]}")
    other = deployment.falls_back_to
    if other is not None and graph_of(other).vocabulary != graph_of(deployment).vocabulary:
        raise ConfigError(
            f"{path}.fallback.options: devices check its texts as well; give it the hidden and "
            "ends of the model itself"
        )


def _check_requests(path: str, requests: Requests, scenario: Scenario) -> None:
    _check_figures(f"{path}.", requests)
    known = scenario.first_deployments()
    if requests.deployment not in known:
        raise ConfigError(f"{path}.deployment: there is no deployment {requests.deployment!r:.40}")
    spec = known[requests.deployment]
    most = spec.input.max_bytes
    for name in ("prompt_tokens", "new_tokens"):
        if spec.kind == "one-pass" and getattr(requests, name) is not None:
            raise ConfigError(f"{path}.{name}: {spec.name} answers in one pass; leave it out")
    if spec.kind == "generation" and requests.bytes is not None:
        raise ConfigError(f"{path}.bytes: {spec.name} generates; say prompt_tokens instead")
    if requests.bytes is not None and requests.bytes > most:
        raise ConfigError(f"{path}.bytes: {requests.bytes} is over input.max_bytes, {most}")
    until = scenario.duration_s if requests.until_s is None else requests.until_s
    if requests.from_s >= until:
        raise ConfigError(f"{path}.from_s: {requests.from_s:g} is not before its end, {until:g}")


def _check_fault(path: str, fault: Fault, nodes: frozenset[str]) -> None:
    _check_figures(f"{path}.", fault)
    told = [fault.kill, fault.freeze, fault.cut, fault.throttle, fault.broker]
    if sum(each is not None for each in (*told, fault.orchestrator or None)) != 1:
        raise ConfigError(f"{path}: give exactly one of {_FAULTS}")
    if fault.node not in nodes and fault.kind not in ("orchestrator", "broker"):
        raise ConfigError(f"{path}.{fault.kind}: there is no node {fault.node!r:.40}")
    if fault.for_s is None and fault.kind in ("freeze", "cut", "throttle", "broker"):
        raise ConfigError(f"{path}.for_s: is missing; say for how long, in seconds")
    for name in ("forgets", "stops"):
        if getattr(fault, name) and fault.broker is None:
            raise ConfigError(f"{path}.{name}: is about a broker; leave it out")
        if getattr(fault, name) and fault.broker == "data":
            raise ConfigError(f"{path}.{name}: the data broker keeps nothing; leave it out")


def _check_operation(
    path: str, operation: Operation, scenario: Scenario, nodes: frozenset[str]
) -> None:
    _check_figures(f"{path}.", operation)
    told = [operation.drain, operation.deploy, operation.undeploy]
    if sum(each is not None for each in told) != 1:
        raise ConfigError(f"{path}: give exactly one of {_OPERATIONS}")
    if operation.drain is None and operation.for_s is not None:
        raise ConfigError(f"{path}.for_s: only a drain is undone; leave it out")
    if operation.drain is not None and operation.drain not in nodes:
        raise ConfigError(f"{path}.drain: there is no node {operation.drain!r:.40}")
    known = scenario.first_deployments()
    if operation.undeploy is not None and operation.undeploy not in known:
        raise ConfigError(f"{path}.undeploy: there is no deployment {operation.undeploy!r:.40}")
    if operation.deploy is not None:
        _check_deployment(f"{path}.deploy", operation.deploy)
        _check_answers_alike(f"{path}.deploy", operation.deploy, known[operation.deploy.name])


def _check_answers_alike(path: str, spec: Deployment, first: Deployment) -> None:
    """Devices ask all that bear one name in the same way, and know what they are to get."""
    if spec.kind != first.kind:
        raise ConfigError(f"{path}.kind: {spec.name} was deployed as {first.kind}; give that")
    if spec.kind != "generation":
        return
    now, before = (graph_of(each).vocabulary for each in (spec, first))
    if now is not None and before is not None and now.size != before.size:
        raise ConfigError(
            f"{path}.model.options.hidden: {spec.name} was deployed with {before.size} tokens; "
            "give that"
        )
