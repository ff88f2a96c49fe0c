"""The places of a door's sessions: who is let in, and which caches are kept when one has ended.

A session is let in where its caches fit beside those that run, those that are kept idle, and those
that have ended since nodes were told of it. Idle ones make room, last of all the one that it could
go on with; then nodes are told at the next tick.
"""

from __future__ import annotations

from itertools import count
from typing import Final

from dsi_mqtt.core.activation import Row
from dsi_mqtt.core.deployment import Generation
from dsi_mqtt.core.effects import Effects
from dsi_mqtt.core.entrance import Entrance
from dsi_mqtt.core.idle import IdleSession, IdleSessions
from dsi_mqtt.core.leases import Roll
from dsi_mqtt.core.model import ModelGraph
from dsi_mqtt.core.room import SESSIONS_HELD, CacheRoom
from dsi_mqtt.core.runs import Calls
from dsi_mqtt.core.schedule import Schedule
from dsi_mqtt.core.session import Session
from dsi_mqtt.core.table import Table

# Texts told on one table before their numbers begin again, so that a later table's take is higher.
TAKES: Final = 1 << 20


class Places:
    """limits: as the deployment says."""

    def __init__(
        self,
        limits: Generation,
        schedule: Schedule,
        roll: Roll,
        entrance: Entrance,
        calls: Calls,
    ) -> None:
        self._limits = limits
        self._schedule = schedule
        self._roll = roll
        self._entrance = entrance
        self._calls = calls
        self._idle = IdleSessions()
        self._takes = count(1)
        self._lanes = count()

    def next_take(self, table: Table) -> int:
        """Of a text that begins while `table` serves."""
        return table.epoch * TAKES + next(self._takes) % TAKES

    def rows(self) -> list[Row]:
        """What is kept of sessions that have ended."""
        return self._idle.rows()

    def limits_are(self, limits: Generation) -> None:
        """As the deployment says from now on: of idle ones fewer may be kept."""
        self._limits = limits
        self._trim()

    def let_in_all(self, table: Table, graph: ModelGraph, now: float) -> Effects:
        """Those whose turn it is, while there is room."""
        effects: Effects = []
        waiting, running = self._schedule.waiting, self._schedule.running
        room = CacheRoom(table, graph, self._limits.kv_mib_max) if waiting else None
        while room is not None and len(running) < self._limits.sessions_max:
            first = waiting.first()
            if first is None:
                break
            if not room.fits([first.room]):
                effects += self._calls.give_up(first.request, room.too_small(first.room), now)
                continue
            found = self._idle.best(first.request.given.device, first.tokens)
            reused, common = found or (None, 0)
            first.most = max(first.room, reused.most if reused else 0)
            beside = [session.most for session in running.values()]
            beside += self._idle.sizes(without=reused)
            held = [most for name, most in self._roll.held.items() if not _is(reused, name)]
            few = len(held) < SESSIONS_HELD * self._limits.sessions_max
            if few and room.fits([first.most, *held]):
                self._let_in(waiting.take(), table, reused, common)
            elif room.fits([first.most, *beside]):
                self._roll.awaited = True  # what has ended is there until nodes are told
                break
            elif self._idle.drop_oldest(but=reused) or self._idle.drop_oldest():
                self._roll.changed = True
            else:
                break
        return effects

    def keep(self, session: Session, now: float) -> None:
        """It has ended well: its caches are of use for what its device asks next."""
        if not self._limits.idle_s:
            return
        tokens = tuple(session.tokens[: session.fed])
        device = session.request.given.device
        until = now + self._limits.idle_s
        self._idle.keep(
            IdleSession(
                session.name, device, tokens, until, session.most, session.lane, session.table
            )
        )
        self._trim()

    def expire(self, now: float) -> None:
        """What was kept long enough goes."""
        self._roll.changed |= self._idle.expire(now)

    def clear(self) -> None:
        """Nothing that is kept is of use any more."""
        while self._idle.drop_oldest():
            self._roll.changed = True

    def _trim(self) -> None:
        while len(self._idle) > self._limits.sessions_max:
            self._idle.drop_oldest()
            self._roll.changed = True

    def _let_in(
        self, session: Session, table: Table, reused: IdleSession | None, common: int
    ) -> None:
        """reused: its caches hold the first `common` positions already."""
        fresh = self._roll.name_next()
        session.name, session.fed, session.lane = fresh, common, next(self._lanes)
        session.table = table
        if reused is not None:
            self._idle.reuse(reused)
            session.name, session.lane, session.table = reused.name, reused.lane, reused.table
            session.recomputes = table.stamp  # where it was, nobody waited for it
        self._roll.held[session.name] = session.most
        self._entrance.begun(session.request)
        session.take = session.take or self.next_take(table)
        self._schedule.start(session)


def _is(session: IdleSession | None, name: str) -> bool:
    return session is not None and session.name == name
