"""MQTT 5 brokers elsewhere: `mqtt://host[:port]`."""

from __future__ import annotations

from dsi_mqtt.transport.address import parse_broker_url
from dsi_mqtt.transport.base import ConnectOptions
from dsi_mqtt.transport.mqtt_control import MqttControlConnection
from dsi_mqtt.transport.mqtt_data import MqttDataConnection


class MqttTransport:
    """Opens connections over TCP. Raises ConfigError for a URL that is none."""

    async def control(self, url: str, options: ConnectOptions) -> MqttControlConnection:
        return await MqttControlConnection.open(parse_broker_url(url), options)

    async def data(self, url: str, options: ConnectOptions) -> MqttDataConnection:
        return await MqttDataConnection.open(parse_broker_url(url), options)
