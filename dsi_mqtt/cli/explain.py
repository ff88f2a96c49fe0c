"""`dsi-mqtt explain`: what the orchestrator has decided, by what, and what came of it."""

from __future__ import annotations

import json as json_module
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer

from dsi_mqtt.cli.common import (
    DEFAULT_URL,
    ROOT,
    BrokerOption,
    JsonOption,
    RootOption,
    control_connection,
    marker,
    size,
)
from dsi_mqtt.cli.run_record import run_record
from dsi_mqtt.core.explaining import KEPT
from dsi_mqtt.core.explanation import Deciding, Explanation, Explanations
from dsi_mqtt.core.explanation_text import lines
from dsi_mqtt.errors import ConfigError, InfeasibleError, UnknownDeploymentError, WireError
from dsi_mqtt.transport.base import Message
from dsi_mqtt.transport.loop import run
from dsi_mqtt.transport.retained import read_retained
from dsi_mqtt.wire.topics import Topics, check_name

SCHEMA: Final = "dsi.explain/1"
WIDTH: Final = 80
LAST: Final = 3


@dataclass(slots=True)
class Told:
    """What the broker retains. deployments: those that are deployed. unreadable: why, by name."""

    deployments: set[str] = field(default_factory=set)
    explanations: dict[str, Explanations] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    led: bool = False


def explain(
    deployment: Annotated[
        str | None, typer.Argument(help="The deployment's name; by default all.")
    ] = None,
    broker: BrokerOption = DEFAULT_URL,
    root: RootOption = ROOT,
    decision: Annotated[
        str | None, typer.Option("--decision", help="The id of one decision, as the log names it.")
    ] = None,
    last: Annotated[
        int, typer.Option("--last", min=1, max=KEPT, help="How many of the newest decisions.")
    ] = LAST,
    json: JsonOption = False,
) -> None:
    """Explain what the orchestrator has decided.

    What, why, by which figures, what was rejected, and what was measured since; the newest last.
    """
    record = run_record("explain")
    if deployment is not None:
        check_name(deployment, "deployment")
    told = run(_read(broker, Topics(root), deployment))
    chosen = choose(told, deployment, decision, last)
    if json:
        print(json_module.dumps({"schema": SCHEMA, **record, **document(told, chosen)}))
    else:
        print("\n".join(view(told, chosen)))


async def _read(url: str, topics: Topics, deployment: str | None) -> Told:
    parts = {} if deployment is None else {"deployment": deployment}
    asked = [topic.filter(**parts) for topic in (topics.spec, topics.explanations)]
    async with control_connection(url) as connection:
        found = await read_retained(connection, [*asked, topics.leader.name()], marker(topics))
    told = Told()
    for message in found:
        _note(told, topics, message)
    return told


def _note(told: Told, topics: Topics, message: Message) -> None:
    if parts := topics.spec.parts(message.topic):
        told.deployments.add(parts["deployment"])
    elif parts := topics.explanations.parts(message.topic):
        name = parts["deployment"]
        try:
            told.explanations[name] = topics.explanations.payload.decode(message.payload)
        except WireError as error:
            told.unreadable[name] = str(error)
    else:
        try:
            told.led = topics.leader.payload.decode(message.payload).beat > 0
        except WireError:
            told.led = False  # rubbish leads nobody


# --- what is chosen ---------------------------------------------------------------------------


def choose(
    told: Told, deployment: str | None, decision: str | None, last: int
) -> dict[str, Explanations]:
    """By deployment, with the explanations that were asked for.

    Raises UnknownDeploymentError, InfeasibleError where nobody decides, ConfigError.
    """
    known = told.deployments | told.explanations.keys() | told.unreadable.keys()
    if deployment is not None and deployment not in known:
        raise UnknownDeploymentError(
            f"there is no deployment {deployment!r} at this broker; `dsi-mqtt status` lists them"
        )
    if not told.explanations:
        for name, why in sorted(told.unreadable.items()):
            raise ConfigError(f"{name}: what is retained of its decisions cannot be read: {why}")
        if not told.led:
            raise InfeasibleError(
                "nothing is decided, for no orchestrator leads; start `dsi-mqtt orchestrator`"
            )
    if decision is None:
        return {
            name: replace(found, explanations=found.explanations[-last:])
            for name, found in sorted(told.explanations.items())
        }
    for name, found in told.explanations.items():
        those = tuple(each for each in found.explanations if each.id == decision)
        if those:
            return {name: replace(found, explanations=those)}
    number = sum(len(found.explanations) for found in told.explanations.values())
    raise ConfigError(
        f"--decision: {decision!r:.60} is not among the newest {number} that are kept; "
        f"`dsi-mqtt explain --last {KEPT}` shows them"
    )


# --- what is shown ----------------------------------------------------------------------------


def document(told: Told, chosen: Mapping[str, Explanations]) -> dict[str, Any]:
    """Of `--json`: as it stands on the topics."""
    return {
        "led": told.led,
        "deployments": {
            name: {
                "leader": found.leader,
                "deciding": asdict(found.deciding),
                "explanations": [asdict(each) for each in found.explanations],
            }
            for name, found in chosen.items()
        },
    }


def view(told: Told, chosen: Mapping[str, Explanations]) -> Iterator[str]:
    """For a person, within 80 columns."""
    if not told.led:
        yield "no orchestrator leads now; this is what the last one has told"
    if not told.deployments and not chosen:
        yield "nothing is deployed, so nothing is decided"
    for i, (name, found) in enumerate(chosen.items()):
        if i:
            yield ""
        yield from _wrapped(f"{name}: {deciding(found.deciding)}", 0)
        for each in found.explanations:
            yield ""
            yield from _explained(each)
    for name in sorted(told.deployments - told.explanations.keys()):
        why = told.unreadable.get(name)
        unread = f"what is retained of its decisions cannot be read: {why}"
        yield from _wrapped(f"{name}: {unread if why else 'nothing is decided yet'}", 0)


def deciding(found: Deciding) -> str:
    """What the orchestrator itself costs."""
    if found.p50_ms is None:
        return f"nothing was looked at yet; {size(found.published_bytes)} published"
    looks = "1 look" if found.looks == 1 else f"{found.looks} looks"
    told = f"{looks} at placements, {found.p50_ms:.1f} ms in the middle"
    if found.p95_ms is not None:
        told += f", 95 % within {found.p95_ms:.1f} ms"
    return f"{told}; {size(found.published_bytes)} published"


def _explained(each: Explanation) -> Iterator[str]:
    when = datetime.fromtimestamp(each.when, UTC).astimezone()
    yield from _wrapped(f"{when:%Y-%m-%d %H:%M:%S} {each.kind} ({each.id})", 0)
    yield from _wrapped(f"because {each.reason}", 2)
    for line in lines(each):
        yield from _wrapped(line, 2)


def _wrapped(text: str, indent: int) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + 2),
        break_on_hyphens=False,
    )
