"""The HTTP server: a socket of its own, and an end that lets go what runs."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Final

import uvicorn
from fastapi import FastAPI

from dsi_mqtt.errors import ConfigError, MachineError
from dsi_mqtt.gateway.connections import Bounds, bound_kernel, bounded

GRACE_S: Final = 10
BACKLOG: Final = 512
BOUNDS: Final = Bounds()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The command has handlers of its own."""
        yield


def listen(bind: str, port: int, *, may_be_open: bool) -> socket.socket:
    """A socket that listens. may_be_open: also where others reach it.

    Raises ConfigError, or MachineError when the port is taken.
    """
    try:
        address = ipaddress.ip_address(bind)
    except ValueError:
        raise ConfigError(f"--bind: {bind!r:.60} is no IP address, like 127.0.0.1") from None
    if not address.is_loopback and not may_be_open:
        raise ConfigError(
            f"--bind {bind} would let anybody in; give --keys FILE, or --open-to-network in a "
            "network of your own"
        )
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET  # noqa: PLR2004 - IPv6
    try:
        return socket.create_server((bind, port), family=family, backlog=BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise MachineError(
                f"--port {port} on {bind} is in use by another program; choose another"
            ) from None
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise MachineError(f"--port {port} on {bind} cannot be listened on: {reason}") from None


@asynccontextmanager
async def serving(
    app: FastAPI, listening: socket.socket, *, bounds: Bounds = BOUNDS, grace_s: int = GRACE_S
) -> AsyncIterator[asyncio.Task[None]]:
    """Serves until the end of the block; the task ends only by a fault.

    bounds: of connections. At the end no more is accepted; what runs has `grace_s` to end before
    it is cancelled.
    """
    bound_kernel(listening)
    config = uvicorn.Config(
        app,
        http=bounded(bounds),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=grace_s,
    )
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listening]), name="http")
    try:
        yield task
    finally:
        server.should_exit = True
        await asyncio.shield(task)
