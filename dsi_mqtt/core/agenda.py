"""When one deployment is thought over next, and which news calls for it."""

from __future__ import annotations

from typing import Final

from dsi_mqtt.core.choosing import LookAgain

# Facts that alone do not call for another plan.
PREPARED: Final = "prepared"
FOUND: Final = "a table was found"


class Agenda:
    """reason: the news that calls for a look now, if any. later: what a preparation was not given
    up for, or what is told when it is over. is_news: nodes or deployments have changed, not only
    figures.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self.later: str | None = None
        self.is_news = False
        self._again: LookAgain | None = None

    def mark(self, reason: str) -> None:
        """Something has changed that a placement depends on."""
        self.is_news = True
        if self.reason in (None, PREPARED, FOUND):
            self.reason = reason

    def note(self, reason: str) -> None:
        """A fact that alone does not call for another plan."""
        self.reason = self.reason or reason

    def look(self, again: LookAgain) -> None:
        """Another look then, unless there is one before."""
        if self._again is None or again.at < self._again.at:
            self._again = again

    def tick(self, now: float) -> None:
        """Time itself may be the news."""
        if self._again is not None and self._again.at <= now:
            self.reason, self._again = self.reason or self._again.reason, None

    def put_off(self) -> None:
        """A preparation goes on whatever has come: that is looked at when it is over."""
        if self.reason not in (PREPARED, FOUND):
            self.later = self.reason
        self.reason = None

    def take_up(self) -> None:
        """What was put off is looked at."""
        self.reason, self.later = self.later, None

    def take(self, reason: str) -> str:
        """Everything known so far is looked at now, because of `reason`."""
        self.reason = self.later = self._again = None
        self.is_news = False
        return reason

    def rest(self) -> None:
        """Nothing is decided before another fact comes."""
        self.reason = self._again = None
