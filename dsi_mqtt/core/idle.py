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


@dataclass(frozen=True, slots=True)
class IdleSession:
    """tokens: of the positions that every segment is thought to hold."""

    name: str
    device: str
    tokens: tuple[int, ...]
    until: float


class IdleSessions:
    """By name, the one that was in use last at the end."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[str, IdleSession] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def positions(self) -> int:
        return sum(len(session.tokens) for session in self._sessions.values())

    def rows(self) -> list[Row]:
        return [Row(session.name, len(session.tokens)) for session in self._sessions.values()]

    def keep(self, session: IdleSession) -> None:
        self._sessions[session.name] = session

    def take(self, device: str, tokens: Sequence[int]) -> tuple[str, int] | None:
        """The name of the session that has most of the beginning of `tokens`, and how much.

        It is kept no more. One token at least is left to feed, for behind it the next is drawn.
        """
        best, common = None, 0
        for session in self._sessions.values():
            shared = _common(session.tokens, tokens[:-1]) if session.device == device else 0
            if shared > common:
                best, common = session.name, shared
        if best is None:
            return None
        del self._sessions[best]
        return best, common

    def drop_oldest(self) -> bool:
        """Makes room; False when there is none to drop."""
        if not self._sessions:
            return False
        self._sessions.popitem(last=False)
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
