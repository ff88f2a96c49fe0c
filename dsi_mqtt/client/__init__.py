"""A device's client: inputs in, results out. Needs no torch."""

from dsi_mqtt.client.client import Client

__all__ = ["Client"]
