"""`dsi-mqtt doctor`: can this machine, and can these brokers, do what deployments need?"""

from __future__ import annotations

import asyncio
import json as json_module
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any, Final

import typer

from dsi_mqtt.cli.common import DEFAULT_URL, BrokerOption, home_brokers
from dsi_mqtt.cli.doctor_machine import is_local, machine_facts, port_holder
from dsi_mqtt.cli.doctor_probe import Probe
from dsi_mqtt.cli.run_record import run_record
from dsi_mqtt.core.checkup import (
    CHUNK_BYTES,
    CONTROL_QUEUE,
    DATA_QUEUE,
    BrokerFacts,
    Finding,
    Role,
    examine,
    healthy,
)
from dsi_mqtt.errors import TransportError, WireError
from dsi_mqtt.transport.address import parse_broker_url
from dsi_mqtt.transport.loop import run
from dsi_mqtt.transport.mqtt import MqttTransport
from dsi_mqtt.wire.topics import Topics

SCHEMA: Final = "dsi.doctor/1"
# The largest input that a deployment takes unless its file says otherwise.
INPUT_BYTES: Final = 1_000_000
# A broker may take a question and never answer; the findings will say what is wrong with it.
_ASK_S: Final = 5.0


def doctor(
    broker: BrokerOption = DEFAULT_URL,
    data_broker: Annotated[
        str | None,
        typer.Option(
            help="The broker for tensors; by default what the control broker names, else the same."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    input_bytes: Annotated[
        int, typer.Option(min=1, help="The largest input that must come through.")
    ] = INPUT_BYTES,
) -> None:
    """Check this machine and its brokers, and say what to change.

    Sends messages below dsi/v1/doctor and leaves nothing there. Whether a broker's state survives
    a crash cannot be seen from outside: see broker/README.md.
    """
    record = run_record("doctor")
    findings = run(checkup(broker, data_broker, input_bytes))
    sound = healthy(findings)
    if json:
        print(json_module.dumps(document(record, findings)))
    else:
        print("\n".join(as_lines(findings)))
    if not sound:
        print("doctor: what is marked fail must be changed first", file=sys.stderr)
        raise typer.Exit(1)


async def checkup(control: str, data: str | None, input_bytes: int) -> list[Finding]:
    """Raises ConfigError when a URL is none."""
    machine = machine_facts()
    data = data or await _named_by(control)
    if data == control:
        needs: list[tuple[Role, str, int, int]] = [
            ("control and data", control, max(input_bytes, CHUNK_BYTES), DATA_QUEUE)
        ]
    else:
        needs = [
            ("control", control, input_bytes, CONTROL_QUEUE),
            ("data", data, CHUNK_BYTES, DATA_QUEUE),
        ]
    brokers = [
        await Probe(MqttTransport(), url, message_bytes, queue).facts(_unseen(role, url))
        for role, url, message_bytes, queue in needs
    ]
    return examine(machine, tuple(brokers))


async def _named_by(control: str) -> str:
    """Where the control broker says that tensors go; itself, also where it cannot be asked."""
    try:
        async with asyncio.timeout(_ASK_S):
            return (await home_brokers(control, None, Topics())).data
    except (TransportError, WireError, TimeoutError):
        return control


def _unseen(role: Role, url: str) -> BrokerFacts:
    address = parse_broker_url(url)
    local = is_local(address.host)
    holder = port_holder(address.port) if local else None
    return BrokerFacts(role, str(address), local=local, holder=holder)


def document(record: dict[str, Any], findings: Sequence[Finding]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        **record,
        "healthy": healthy(list(findings)),
        "findings": [asdict(finding) for finding in findings],
    }


def as_lines(findings: Sequence[Finding]) -> list[str]:
    """A line for each finding, with what to change on a line of its own."""
    width = max(len(finding.subject) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:4}  {finding.subject:{width}}  {finding.what}")
        if finding.change is not None:
            lines.append(f"      {'':{width}}  → {finding.change}")
    return lines
