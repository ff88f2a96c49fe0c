"""`broker/compose.yaml` against the settings it deploys; no container is started."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from dsi_mqtt.transport.broker_settings import SITE_SETTINGS, BrokerSettings

BROKER_FOLDER = Path(__file__).parents[2] / "broker"
COMPOSE: dict[str, Any] = yaml.safe_load((BROKER_FOLDER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
# Of the Compose specification, with the type of each; what else is written here is misspelt.
KEYS: dict[str, type] = {
    "image": str,
    "network_mode": str,
    "restart": str,
    "stop_grace_period": str,
    "volumes": list,
    "healthcheck": dict,
}


def settings(service: str) -> BrokerSettings:
    return SITE_SETTINGS[f"{service}.conf"]


def mounts(service: str) -> dict[str, str]:
    """Path in the container → what is mounted there."""
    told = (mount.split(":") for mount in SERVICES[service]["volumes"])
    return {target: ":".join([source, *mode]) for source, target, *mode in told}


def test_a_service_for_each_configuration() -> None:
    assert {f"{service}.conf" for service in SERVICES} == SITE_SETTINGS.keys()
    assert COMPOSE.keys() == {"services", "volumes"}


@pytest.mark.parametrize("service", SERVICES)
def test_only_keys_that_compose_knows(service: str) -> None:
    told = SERVICES[service]
    assert told.keys() <= KEYS.keys()
    assert [name for name, value in told.items() if not isinstance(value, KEYS[name])] == []
    assert told["healthcheck"].keys() == {"test", "interval", "timeout", "retries"}
    assert told["image"].rpartition(":")[2].replace(".", "").isdecimal(), (
        "a version, not a moving tag"
    )


@pytest.mark.parametrize("service", SERVICES)
def test_the_file_beside_it_is_what_the_container_reads(service: str) -> None:
    source = mounts(service)["/mosquitto/config/mosquitto.conf"]
    assert source == f"./{service}.conf:ro"
    assert (BROKER_FOLDER / source.removesuffix(":ro")).is_file()


@pytest.mark.parametrize("service", SERVICES)
def test_a_broker_on_loopback_is_on_the_hosts(service: str) -> None:
    """In a network of its own nobody could reach it there, and published ports would not help."""
    assert settings(service).bind == "127.0.0.1"
    assert SERVICES[service]["network_mode"] == "host"


@pytest.mark.parametrize("service", SERVICES)
def test_state_outlives_the_container_where_there_is_any(service: str) -> None:
    location = settings(service).persistence_location
    state = {target: volume for target, volume in mounts(service).items() if ".conf" not in target}
    assert state == ({} if location is None else {str(location): "control-state"})
    assert COMPOSE["volumes"].keys() == {"control-state"}


def health_check(service: str) -> list[str]:
    kind, *command = SERVICES[service]["healthcheck"]["test"]
    assert kind == "CMD"
    return [word.replace("$$", "$") for word in command]  # Compose's way to write a dollar


@pytest.mark.parametrize("service", SERVICES)
def test_the_health_check_asks_its_own_broker(service: str) -> None:
    command = health_check(service)
    assert command[command.index("-p") + 1] == str(settings(service).port)
    assert command[command.index("-h") + 1] == settings(service).bind


@pytest.mark.e2e
@pytest.mark.parametrize("service", SERVICES)
def test_the_health_check_tells_a_broker_that_answers(
    service: str, control_broker: str, data_broker: str
) -> None:
    url = control_broker if service == "control" else data_broker
    command = health_check(service)
    at = command.index("-p") + 1
    command[at] = url.rpartition(":")[2]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    command[at] = "1"  # nobody listens there
    assert subprocess.run(command, check=False, capture_output=True).returncode != 0
