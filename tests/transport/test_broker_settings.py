from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dsi_mqtt.errors import ConfigError
from dsi_mqtt.transport.broker_settings import (
    SITE_SETTINGS,
    BrokerSettings,
    control_settings,
    data_settings,
    render,
)

BROKER_FOLDER = Path(__file__).parents[2] / "broker"


def directives(settings: BrokerSettings) -> dict[str, str]:
    lines = (line for line in render(settings).splitlines() if line and not line.startswith("#"))
    return {name: value for name, _, value in (line.partition(" ") for line in lines)}


@pytest.mark.parametrize("name", ["control.conf", "data.conf"])
def test_deployed_files_are_what_the_settings_render(name: str) -> None:
    deployed = (BROKER_FOLDER / name).read_text()
    assert deployed == render(SITE_SETTINGS[name]), "run `make broker-conf` and read the difference"


def test_control_saves_at_every_change() -> None:
    told = directives(control_settings(persistence_location=Path("/state")))
    assert told["persistence"] == "true"
    assert told["autosave_on_changes"] == "true"
    assert told["autosave_interval"] == "1"
    assert told["persistence_location"] == "/state/"


def test_data_writes_nothing_to_disk() -> None:
    told = directives(data_settings())
    assert told["persistence"] == "false"
    assert not {"autosave_on_changes", "autosave_interval", "persistence_location"} & told.keys()


@pytest.mark.parametrize("settings", [control_settings(port=1), data_settings(port=2)])
def test_limits_that_versions_disagree_on_are_always_set(settings: BrokerSettings) -> None:
    told = directives(settings)
    assert told["max_packet_size"] == str(settings.max_packet_size)
    assert told["max_queued_messages"] == str(settings.max_queued_messages)
    assert told["max_queued_bytes"] == str(settings.max_queued_bytes)
    assert told["max_inflight_messages"] == str(settings.max_inflight_messages)
    assert told["set_tcp_nodelay"] == "true"
    assert told["listener"] == f"{settings.port} 127.0.0.1"
    assert "message_size_limit" not in told, "it drops in silence"


def test_every_directive_stands_under_a_reason() -> None:
    for block in render(SITE_SETTINGS["control.conf"]).split("\n\n")[1:]:
        *reason, directive = block.strip().splitlines()
        assert reason, directive
        assert all(line.startswith("# ") for line in reason)


def test_a_packet_fits_the_queue() -> None:
    for settings in SITE_SETTINGS.values():
        assert settings.max_packet_size < settings.max_queued_bytes


@pytest.mark.parametrize("bind", ["0.0.0.0", "::", "10.0.0.1"])
def test_an_open_broker_stays_on_loopback(bind: str) -> None:
    with pytest.raises(ConfigError, match="would let anybody in; use 127"):
        replace(data_settings(), bind=bind)


def test_a_network_of_ones_own_may_be_opened() -> None:
    settings = replace(data_settings(port=7), bind="10.0.0.1", open_to_network=True)
    assert directives(settings)["listener"] == "7 10.0.0.1"


def test_a_host_name_is_no_address_to_bind() -> None:
    with pytest.raises(ConfigError, match="bind 'localhost' is no IP address"):
        replace(data_settings(), bind="localhost")


@pytest.mark.parametrize(
    ("bind", "url"),
    [
        ("127.0.0.1", "mqtt://127.0.0.1:9"),
        ("0.0.0.0", "mqtt://127.0.0.1:9"),
        ("::", "mqtt://[::1]:9"),
        ("10.0.0.1", "mqtt://10.0.0.1:9"),
    ],
)
def test_url_is_where_clients_of_this_machine_connect(bind: str, url: str) -> None:
    assert replace(data_settings(port=9), bind=bind, open_to_network=True).url == url
