"""Broker URLs: `mqtt://host[:port]`, IPv6 hosts in brackets."""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import urlsplit

from dsi_mqtt.errors import ConfigError

DEFAULT_PORT: Final = 1883
EXAMPLE: Final = "mqtt://host:1883"


class BrokerAddress(NamedTuple):
    """Where a broker listens."""

    host: str
    port: int = DEFAULT_PORT

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_broker_url(url: str) -> BrokerAddress:
    """The address in `url`. Raises ConfigError naming the URL, unless it may hold a password.

    A user name or password is refused: URLs travel in retained statuses and tables, where
    everybody reads them.
    """
    if "@" in url:
        # Not even a part of it is shown: any character may belong to the password.
        raise ConfigError(
            "the broker URL holds a user name or password before an @; neither is supported yet, "
            f"use {EXAMPLE}"
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"broker URL {url!r} is malformed ({error}); use {EXAMPLE}") from None
    if parts.scheme == "mqtts":
        raise ConfigError(f"broker URL {url!r}: TLS is not supported yet; use {EXAMPLE}")
    if parts.scheme != "mqtt":
        raise ConfigError(f"broker URL {url!r} does not begin with mqtt://; use {EXAMPLE}")
    if not parts.hostname or port == 0:
        raise ConfigError(f"broker URL {url!r} lacks a host or a usable port; use {EXAMPLE}")
    if parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ConfigError(f"broker URL {url!r} goes on after the port; use {EXAMPLE}")
    try:
        parts.hostname.encode("idna")  # as whoever looks it up does
    except UnicodeError:
        raise ConfigError(
            f"broker URL {url!r:.100} has a host that is no name; use {EXAMPLE}"
        ) from None
    return BrokerAddress(parts.hostname, DEFAULT_PORT if port is None else port)


def beside(url: str, port: int) -> str:
    """The URL of another port on the same host. Raises ConfigError as `parse_broker_url`."""
    return f"mqtt://{BrokerAddress(parse_broker_url(url).host, port)}"


def where_tensors_go(control: str, data_port: int | None) -> str:
    """The URL that `broker/site` means at the control broker `control`; no port: that one.

    Raises ConfigError as `parse_broker_url`.
    """
    return control if data_port is None else beside(control, data_port)
