"""What a chain promises of texts that come at random: how soon they begin, and how they go on.

A *step* of decoding carries one position of several sessions; how many is its *width*. As many
steps as the chain has nodes at most, its *depth*, go round at once. With the times of a chain for
one step of a width w (a trip through it, and what keeps its busiest station busy):

    token(w) = max(trip(w), depth · busiest(w)) + what prompts that come between take
    sessions = rate · steps of a text · token(w)          that decode at once (Little)
    w        = (sessions + 1) / depth                     a session sees the others, and itself

A wider step takes longer, so that more sessions are there, so that steps are wider: what it comes
to is found by bisection, and the depth is the one that gives most, as the door finds by trial
(`core/depth.py`). Sessions that come at random and stay for a while are as many as a Poisson
distribution says, and of that a percentile makes the steps that most tokens come within.

A prompt waits for prompts before it (`core/queueing.py`), each taking as much longer as steps of
decoding keep the station busy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dsi_mqtt.core.aim import Texts
from dsi_mqtt.core.queueing import poisson_within, waiting_s
from dsi_mqtt.core.schedule import BATCH_MAX

_ROUNDS: Final = 30

Stations = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Times:
    """Of one chain, in seconds. trip: of a request's prompt, or of one step. busy: by station, how
    long that keeps it busy.
    """

    trip: float
    busy: Stations


@dataclass(frozen=True, slots=True)
class Cadence:
    """first_s: until the first token, for one that waits for no other prompt; first_within_s: most
    stay within. token_s: of one token after the other; token_within_s: most stay within.
    sessions: that decode at once, on average. width: of a step, as sessions see it. rate_per_s: the
    most texts that can be served for long.
    """

    first_s: float
    first_within_s: float
    token_s: float
    token_within_s: float
    sessions: float
    width: float
    rate_per_s: float

    @property
    def sustained(self) -> bool:
        return math.isfinite(self.first_within_s)


@dataclass(frozen=True, slots=True)
class Rhythm:
    """A chain. prompt: of a whole prompt. step: by width. nodes: how many it has."""

    texts: Texts
    prompt: Times
    step: Callable[[int], Times]
    nodes: int
    sessions_max: int

    def cadence(self, rate_per_s: float, share: float) -> Cadence:
        """share: of the texts, and of tokens, that the longer times hold for."""
        rhythms = [_Round(self, cache(self.step), depth) for depth in self._depths()]
        return min(
            (found.cadence(rate_per_s, share) for found in rhythms),
            key=lambda found: (not found.sustained, found.token_s, -found.rate_per_s),
        )

    def _depths(self) -> range:
        return range(1, max(1, min(self.nodes, self.sessions_max)) + 1)


@dataclass(frozen=True, slots=True)
class _Round:
    """The same with so many steps in the chain at once."""

    chain: Rhythm
    step: Callable[[int], Times]
    depth: int

    def cadence(self, rate_per_s: float, share: float) -> Cadence:
        chain, texts = self.chain, self.chain.texts
        most = self._most_sessions()
        prompts = rate_per_s * chain.prompt.busy
        sessions = self._sessions(rate_per_s, prompts, most)
        width = self._width(min(sessions + 1, most))
        bearable = self._rate(most)
        borne = rate_per_s < bearable and sessions < most
        many = min(most, poisson_within(sessions, share) + 1) if borne else most
        decodes = rate_per_s * texts.steps * self._busy(width) / width
        slowed = chain.prompt.busy / np.maximum(1 - decodes, 1e-9)
        first = chain.prompt.trip + float((slowed - chain.prompt.busy).sum()) * borne
        wait = waiting_s(rate_per_s, float(slowed.max(initial=0.0)), share) if borne else math.inf
        return Cadence(
            first,
            first + wait,
            self._token(sessions + 1, prompts),
            self._token(many, prompts),
            sessions,
            width,
            bearable,
        )

    def _most_sessions(self) -> float:
        return float(min(self.chain.sessions_max, self.depth * BATCH_MAX))

    def _width(self, seen: float) -> float:
        return max(1.0, seen / self.depth)

    def _sessions(self, rate_per_s: float, prompts: Stations, most: float) -> float:
        """That decode at once; `most` where no number would be enough."""
        each = rate_per_s * self.chain.texts.steps
        if each * self._token(most, prompts) >= most:
            return most
        low, high = 0.0, most
        for _ in range(_ROUNDS):
            middle = (low + high) / 2
            if each * self._token(min(middle + 1, most), prompts) <= middle:
                high = middle
            else:
                low = middle
        return high

    def _token(self, seen: float, prompts: Stations) -> float:
        """While so many sessions decode, between prompts that keep stations busy for those shares."""
        trip, busy = self._at(self._width(seen))
        steps = min(float(self.depth), max(1.0, seen))
        turn = max(trip, steps * float(busy.max(initial=0.0)))
        free = np.maximum(1 - prompts, 1e-9)
        return turn + float((busy * prompts / free).sum())

    def _busy(self, width: float) -> Stations:
        return self._at(width)[1]

    def _at(self, width: float) -> tuple[float, Stations]:
        """Between whole widths in a line."""
        below, above = math.floor(width), math.ceil(width)
        one, other = self.step(below), self.step(above)
        share = width - below
        return (
            one.trip + share * (other.trip - one.trip),
            one.busy + share * (other.busy - one.busy),
        )

    def _rate(self, most: float) -> float:
        """Texts a second that keep no station busy all the time, with all sessions there may be."""
        width = self._width(most)
        steps = self.chain.texts.steps
        each = self.chain.prompt.busy + steps * self._busy(width) / width
        stations = float(each.max(initial=0.0))
        stay = steps * self._token(most, np.zeros_like(each))
        limits = [1 / stations if stations else math.inf, most / stay if stay else math.inf]
        return min(limits)
