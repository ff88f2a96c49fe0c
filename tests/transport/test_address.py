from __future__ import annotations

import pytest

from dsi_mqtt.errors import ConfigError
from dsi_mqtt.transport.address import BrokerAddress, parse_broker_url
from dsi_mqtt.transport.base import ConnectOptions
from dsi_mqtt.transport.mqtt import MqttTransport


@pytest.mark.parametrize(
    ("url", "address", "shown"),
    [
        ("mqtt://h", BrokerAddress("h", 1883), "h:1883"),
        ("mqtt://h:1", BrokerAddress("h", 1), "h:1"),
        ("mqtt://h:65535/", BrokerAddress("h", 65535), "h:65535"),
        ("mqtt://10.0.0.1:1884", BrokerAddress("10.0.0.1", 1884), "10.0.0.1:1884"),
        ("mqtt://[::1]:1884", BrokerAddress("::1", 1884), "[::1]:1884"),
        ("mqtt://[fe80::1]", BrokerAddress("fe80::1", 1883), "[fe80::1]:1883"),
    ],
)
def test_urls(url: str, address: BrokerAddress, shown: str) -> None:
    assert parse_broker_url(url) == address
    assert str(address) == shown


@pytest.mark.parametrize(
    "url",
    [
        "",
        "h:1883",
        "h",
        "http://h",
        "mem://h",
        "mqtt://",
        "mqtt://:1883",
        "mqtt://h:0",
        "mqtt://h:65536",
        "mqtt://h:port",
        "mqtt://[::1",
        "mqtt://h/topic",
        "mqtt://h?x=1",
        "mqtt://h#x",
        "mqtts://h",
        "mqtt://\udcff:1883",
        f"mqtt://{'h' * 70}",
    ],
)
def test_what_is_no_url_is_refused_by_name(url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_broker_url(url)
    assert repr(url) in str(refused.value)
    assert "mqtt://host:1883" in str(refused.value)


def test_tls_is_refused_as_such() -> None:
    with pytest.raises(ConfigError, match="TLS is not supported yet"):
        parse_broker_url("mqtts://h")


@pytest.mark.parametrize(
    "url",
    [
        "mqtt://u:secret@h",
        "mqtt://secret@h:1883",
        "mqtt://:secret@[::1]:1883",
        "mqtt://u:secret@h/x",
        "mqtt://u:sec/ret@h",
        "mqtt://u:sec//ret@h",
        "mqtt://u:sec@ret@h",
        "mqtt://u:secret@h:port",
        "mqtt://u:secret@[::1",
        "mqtts://u:secret@h",
        "http://u:secret@h",
        "u:secret@h",
        "//u:secret@h",
    ],
)
def test_a_user_name_or_password_is_refused_and_nothing_of_it_shown(url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_broker_url(url)
    assert str(refused.value) == (
        "the broker URL holds a user name or password before an @; neither is supported yet, "
        "use mqtt://host:1883"
    )


async def test_the_transport_refuses_a_url_that_is_none() -> None:
    with pytest.raises(ConfigError):
        await MqttTransport().control("h:1883", ConnectOptions())
    with pytest.raises(ConfigError):
        await MqttTransport().data("h:1883", ConnectOptions())
