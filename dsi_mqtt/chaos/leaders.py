"""Which of two orchestrators leads: their records name a nonce, and no process."""

from __future__ import annotations

from collections.abc import Sequence

from dsi_mqtt.chaos.watcher import Watcher


class Leaders:
    """A nonce that is not known belongs to the one whose nonce is not known.

    So the first is to lead before the second is there, and of a new one that leads must be taken
    note before the other one begins again.
    """

    def __init__(self, names: Sequence[str], watcher: Watcher) -> None:
        self._names = tuple(names)
        self._watcher = watcher
        self._nonces: dict[str, str] = {}
        self.term = 0

    def note(self) -> None:
        """Whoever leads now, leads."""
        leader = self._watcher.leader
        if leader is None:
            return
        self.term = max(self.term, leader.term)
        if leader.nonce not in self._nonces.values():
            unknown = [name for name in self._names if name not in self._nonces]
            if unknown:
                self._nonces[unknown[0]] = leader.nonce

    def forget(self, name: str) -> None:
        """It begins again, with another nonce."""
        self._nonces.pop(name, None)

    def name(self) -> str:
        """The one that leads."""
        self.note()
        leader = self._watcher.leader
        for name, nonce in self._nonces.items():
            if leader is not None and nonce == leader.nonce:
                return name
        return self._names[0]
