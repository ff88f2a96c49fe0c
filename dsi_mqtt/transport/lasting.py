"""Connecting again, in the one place that does.

A connection never comes back by itself: who holds one would not notice what was lost with it.
Instead *work* runs on one connection from its beginning (subscribe, write retained state
again) to its end, and then runs anew on the next.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from dsi_mqtt.errors import (
    BrokerRefusedError,
    BrokerUnreachableError,
    ConnectionLostError,
    TransportError,
)
from dsi_mqtt.transport.base import Connection

log = logging.getLogger(__name__)

C = TypeVar("C", bound=Connection)


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before connecting again: doubling, capped, with jitter.

    The wait is drawn from the upper half of its step, so that clients of a broker that restarts
    do not come back as one. Work that held for `settled_s` starts the steps over; two
    clients that take one MQTT session from each other never reach that, and so slow down.
    """

    first_s: float = 0.1
    last_s: float = 30.0
    settled_s: float = 10.0

    def wait_s(self, failures: int, rng: random.Random) -> float:
        """Seconds before the next attempt after `failures` in a row, 1 or more."""
        doublings = min(failures - 1, 64)  # beyond, the float would overflow
        return min(self.first_s * 2.0**doublings, self.last_s) * rng.uniform(0.5, 1.0)

    def slowest_s(self, rng: random.Random) -> float:
        """Seconds before asking a broker again that has said no."""
        return self.last_s * rng.uniform(0.5, 1.0)


def log_wait(error: TransportError, wait_s: float) -> None:
    log.warning("%s (next attempt in %.1f s)", error, wait_s)


async def keep_connected(
    connect: Callable[[], Awaitable[C]],
    work: Callable[[C], Awaitable[None]],
    *,
    backoff: Backoff = Backoff(),
    on_wait: Callable[[TransportError, float], None] = log_wait,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
    rng: random.Random | None = None,
) -> None:
    """Runs `work` on a connection, and again on a new one whenever that is lost.

    on_wait: told why, and for how many seconds, before each wait; a refusal (wrong password, not
        admitted) waits at the slow end, for only a person can mend it.

    Returns when `work` returns. Whatever else it raises than ConnectionLostError (also as a
    group of nothing else, from a TaskGroup) ends this too: the connection is then aborted, so
    that the will is sent. On return or cancellation it is closed cleanly.
    """
    rng = rng or random.Random()  # noqa: S311 - jitter keeps no secret
    failures = 0
    while True:
        settled = False
        try:
            connection = await connect()
        except (BrokerRefusedError, BrokerUnreachableError, ConnectionLostError) as error:
            lost: TransportError = error
        else:
            began = clock()
            end = await _run(work, connection)
            if end is None:
                return
            lost, settled = end, clock() - began >= backoff.settled_s
        failures = 1 if settled else failures + 1
        refused = isinstance(lost, BrokerRefusedError)
        wait_s = backoff.slowest_s(rng) if refused else backoff.wait_s(failures, rng)
        on_wait(lost, wait_s)
        await sleep(wait_s)


async def _run(work: Callable[[C], Awaitable[None]], connection: C) -> ConnectionLostError | None:
    """Why the connection was lost; None when the work came to its own end."""
    try:
        await work(connection)
    except asyncio.CancelledError:
        await connection.close()
        raise
    except BaseException as error:
        connection.abort()
        lost = _loss(error)
        if lost is None:
            raise
        return lost
    await connection.close()
    return None


def _loss(error: BaseException) -> ConnectionLostError | None:
    """The loss of the connection that `error` tells of, and nothing else."""
    while isinstance(error, BaseExceptionGroup):
        _, others = error.split(ConnectionLostError)
        if others is not None:
            return None
        error = error.exceptions[0]
    return error if isinstance(error, ConnectionLostError) else None
