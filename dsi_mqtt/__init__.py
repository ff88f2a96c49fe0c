"""Distributed split inference over MQTT, orchestrated at run time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dsi_mqtt.client import Client

__all__ = ["Client", "__version__"]

__version__: Final = "0.1.0"


def __getattr__(name: str) -> object:
    """`Client` on first use, so that `import dsi_mqtt` stays light."""
    if name == "Client":
        from dsi_mqtt.client import Client  # noqa: PLC0415 — the reason for this function

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
