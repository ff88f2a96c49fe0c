"""Distributed split inference over MQTT, orchestrated at run time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dsi_mqtt.client import Answer, Client, Completion, Piece, TextGeneration

__all__ = ["Answer", "Client", "Completion", "Piece", "TextGeneration", "__version__"]

__version__: Final = "0.1.0"


def __getattr__(name: str) -> object:
    """What a device needs, on first use, so that `import dsi_mqtt` stays light."""
    if name in __all__:
        from dsi_mqtt import client  # noqa: PLC0415 — the reason for this function

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
