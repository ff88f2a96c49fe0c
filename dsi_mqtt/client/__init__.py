"""A device's client: inputs in, results out. Needs no torch."""

from dsi_mqtt.client.client import Client
from dsi_mqtt.client.generation import TextGeneration
from dsi_mqtt.core.generation import Completion
from dsi_mqtt.core.request import Answer
from dsi_mqtt.core.stream import Piece

__all__ = ["Answer", "Client", "Completion", "Piece", "TextGeneration"]
