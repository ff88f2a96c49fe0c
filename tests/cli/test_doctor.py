"""The doctor against real brokers: it finds what is wrong with them, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import aiomqtt
import pytest
import typer
from typer.testing import CliRunner, Result

from dsi_mqtt.cli.broker import site_brokers
from dsi_mqtt.cli.common import ROOT
from dsi_mqtt.cli.doctor import checkup, doctor
from dsi_mqtt.core.checkup import Finding
from dsi_mqtt.errors import ConfigError
from dsi_mqtt.transport.mosquitto import (
    BrokerSettings,
    MosquittoProcess,
    control_settings,
    data_settings,
)

StartMosquitto = Callable[[BrokerSettings], Awaitable[MosquittoProcess]]
INPUT_BYTES = 1_000_000

pytestmark = pytest.mark.e2e


def of_brokers(findings: list[Finding], *levels: str) -> set[str]:
    """The checks with one of these levels, of all brokers."""
    return {f.check for f in findings if "broker" in f.subject and f.level in levels}


async def test_our_own_brokers_are_sound(control_broker: str, data_broker: str) -> None:
    findings = await checkup(control_broker, data_broker, INPUT_BYTES)
    assert of_brokers(findings, "fail") == set()
    assert {"retained", "session", "queue", "message_size", "echo"} <= of_brokers(findings, "ok")


async def test_every_limit_that_is_too_tight_is_found(mosquitto: StartMosquitto) -> None:
    tight = replace(
        data_settings(), max_packet_size=100_000, max_inflight_messages=2, max_queued_messages=3
    )
    broker = await mosquitto(tight)
    findings = await checkup(broker.url, None, INPUT_BYTES)
    assert of_brokers(findings, "fail") == {"message_size", "queue"}
    assert of_brokers(findings, "warn") >= {"receive_maximum", "shared"}
    queue = next(finding for finding in findings if finding.check == "queue")
    assert queue.what.startswith(("kept 4 of 1000", "kept 5 of 1000", "kept 6 of 1000"))


async def test_the_data_broker_is_the_one_that_the_control_broker_names(tmp_path: Path) -> None:
    async with site_brokers(tmp_path, 0, 0, root=ROOT) as site:
        findings = await checkup(site.control.url, None, INPUT_BYTES)
    subjects = {finding.subject for finding in findings if "broker" in finding.subject}
    assert subjects == {
        f"control broker 127.0.0.1:{site.control.port}",
        f"data broker 127.0.0.1:{site.data.port}",
    }
    assert "shared" not in of_brokers(findings, "warn")


async def test_nothing_is_left_on_the_broker(tmp_path: Path) -> None:
    """Neither a retained message nor an MQTT session: a database of the broker would hold both."""
    async with MosquittoProcess(control_settings(), folder=tmp_path) as broker:
        async with aiomqtt.Client("127.0.0.1", broker.port) as client:
            await client.publish("control", b"is saved", qos=1, retain=True)
        await checkup(broker.url, None, INPUT_BYTES)
    database = (tmp_path / "mosquitto.db").read_bytes()
    assert b"is saved" in database
    assert b"doctor" not in database


async def test_a_silent_port_is_told_from_a_wrong_program(unused_port: int) -> None:
    findings = await checkup(f"mqtt://127.0.0.1:{unused_port}", None, INPUT_BYTES)
    finding = next(finding for finding in findings if finding.check == "reachable")
    assert finding.level == "fail"
    assert finding.change == "nothing listens on that port: start the broker"

    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", unused_port)
    async with server:
        findings = await checkup(f"mqtt://127.0.0.1:{unused_port}", None, INPUT_BYTES)
    finding = next(finding for finding in findings if finding.check == "reachable")
    assert finding.level == "fail"
    assert f"(pid {os.getpid()}) holds the port" in (finding.change or "")


async def test_a_malformed_address_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ConfigError, match="mqtt://"):
        await checkup("127.0.0.1:1883", None, INPUT_BYTES)


def test_json_is_one_object_and_success_is_status_0(control_broker: str, data_broker: str) -> None:
    result = invoke("--broker", control_broker, "--data-broker", data_broker, "--json")
    document = json.loads(result.stdout)
    assert document["schema"] == "dsi.doctor/1"
    assert document["command"] == "doctor"
    assert document["host"]["cores"] == os.cpu_count()
    assert document["healthy"] is True
    assert {finding["level"] for finding in document["findings"]} <= {"ok", "warn"}
    assert result.exit_code == 0, result.output


def test_a_failure_is_status_1_with_what_to_change(unused_port: int) -> None:
    result = invoke("--broker", f"mqtt://127.0.0.1:{unused_port}")
    assert result.exit_code == 1
    assert "→ nothing listens on that port: start the broker" in result.stdout
    assert "must be changed" in result.stderr


@pytest.fixture
def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def invoke(*arguments: str) -> Result:
    app = typer.Typer()
    app.command()(doctor)
    return CliRunner().invoke(app, list(arguments))
