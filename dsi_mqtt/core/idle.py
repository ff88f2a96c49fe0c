"""Caches of generations that have ended well, kept a while for what their device asks next.

The next turn of a conversation begins with the tokens of those before: what a cache holds of them
is not computed again. Only the device that asked gets its own, for how fast an answer comes would
tell others what somebody has asked before.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from dsi_mqtt.core.activation import Row
from dsi_mqtt.core.table import Table


@dataclass(frozen=True, slots=True)
class IdleSession:
    """tokens: of the positions that every segment is thought to hold. most: that it ever held.
    table: whose nodes have them.
    """

    name: str
    device: str
    tokens: tuple[int, ...]
    until: float
    most: int
    lane: int = 0
    table: Table | None = None


class IdleSessions:
    """By name, the one that was in use last at the end."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[str, IdleSession] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def sizes(self, *, without: IdleSession | None = None) -> list[int]:
        """Positions that each has held."""
        return [kept.most for kept in self._sessions.values() if kept is not without]

    def rows(self) -> list[Row]:
        return [Row(session.name, len(session.tokens)) for session in self._sessions.values()]

    def keep(self, session: IdleSession) -> None:
        self._sessions[session.name] = session

    def best(self, device: str, tokens: Sequence[int]) -> tuple[IdleSession, int] | None:
        """The one that has most of the beginning of `tokens`, and how much.

        One token at least is left to feed, for behind it the next is drawn.
        """
        best, common = None, 0
        for session in self._sessions.values():
            shared = _common(session.tokens, tokens[:-1]) if session.device == device else 0
            if shared > common:
                best, common = session, shared
        return None if best is None else (best, common)

    def reuse(self, session: IdleSession) -> None:
        """It is in use again."""
        del self._sessions[session.name]

    def drop_oldest(self, *, but: IdleSession | None = None) -> bool:
        """Makes room; False when there is none to drop."""
        oldest = next((kept for kept in self._sessions.values() if kept is not but), None)
        if oldest is None:
            return False
        del self._sessions[oldest.name]
        return True

    def expire(self, now: float) -> bool:
        """Whether any was kept long enough."""
        old = [name for name, session in self._sessions.items() if session.until <= now]
        for name in old:
            del self._sessions[name]
        return bool(old)


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens both begin with."""
    shared = 0
    for ours, theirs in zip(left, right, strict=False):
        if ours != theirs:
            break
        shared += 1
    return shared
