"""What a chain promises of texts that come at random: how soon they begin, and how they go on.

A *step* of decoding carries one position of several sessions; how many is its *width*. As many
steps as the chain has nodes at most, its *depth*, go round at once. While n sessions decode, a
token takes a turn of a step, and what prompts hold it up:

    turn(n)  = max(trip(n / depth), depth · busiest(n / depth))
    token(n) = turn(n) + rate · token(n) · held(n)

A step that comes behind a prompt passes it nowhere, so that it is held up for as long as the prompt
takes through the whole chain, less what its own way there takes; the prompts right behind that one
cost the busiest station's time each.

The number of sessions is that of a queue that is served in turns, with rates that depend on it:
each new text adds one, `n / (steps · token(n))` end in a second, and what texts are like matters
only by its mean (Kelly, "Reversibility and Stochastic Networks", 1979, on symmetric queues):

    p(n) / p(n - 1) = rate · steps · token(n) / n

A prompt waits for steps in service, and for prompts before it (`core/queueing.py`), between which
the steps that they held up pass. The depth is the one that gives the quickest tokens, as the door
finds by trial (`core/depth.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dsi_mqtt.core.aim import Texts
from dsi_mqtt.core.deployment import Sla
from dsi_mqtt.core.queueing import waiting_s
from dsi_mqtt.core.schedule import BATCH_MAX

# A number of sessions that is so much rarer than another adds nothing; as a logarithm.
_RARE: Final = math.log(1e-6)
_MIDDLE: Final = 0.5
# Prompts leave steps some time, however many come.
_LEAST_FREE: Final = 0.02
_LEAST: Final = 1e-12

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

    def meets(self, sla: Sla) -> bool:
        """Whether most texts and tokens come within what the deployment asks for, if it does."""
        asked = (sla.first_token_ms, self.first_within_s), (sla.token_ms, self.token_within_s)
        return self.sustained and all(ms is None or 1e3 * told <= ms for ms, told in asked)

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
        step = cache(self.step)
        rhythms = [_Round(self, step, depth) for depth in self._depths()]
        found = [each.cadence(rate_per_s, share) for each in rhythms]
        quickest = min(found, key=lambda one: (not one.sustained, one.token_s, -one.rate_per_s))
        return replace(quickest, rate_per_s=max(one.rate_per_s for one in found))

    def _depths(self) -> range:
        return range(1, max(1, min(self.nodes, self.sessions_max)) + 1)


@dataclass(frozen=True, slots=True)
class _Crowd:
    """While so many sessions decode, in seconds. token: of one, prompts between them counted in;
    held: of which one prompt holds up a step. behind: that a prompt keeps the next one waiting.
    """

    turn: float
    token: float
    held: float
    behind: float
    met: float


@dataclass(frozen=True, slots=True)
class _Round:
    """The same with so many steps in the chain at once."""

    chain: Rhythm
    step: Callable[[int], Times]
    depth: int

    def cadence(self, rate_per_s: float, share: float) -> Cadence:
        chain = self.chain
        most = min(chain.sessions_max, self.depth * BATCH_MAX)
        bearable = self._rate(most)
        crowds = [self._crowd(0, rate_per_s)]
        likely = [0.0]  # as logarithms
        while len(likely) <= most and likely[-1] > max(likely) + _RARE:
            number = len(likely)
            crowds.append(self._crowd(number, rate_per_s))
            each = rate_per_s * chain.texts.steps * crowds[-1].token
            likely.append(likely[-1] + math.log(each / number) if each else -math.inf)
        chances = np.exp(np.array(likely) - max(likely))
        chances /= chances.sum()
        numbers = np.arange(len(likely))
        sessions = float(chances @ numbers)
        told = float(chances @ (numbers / [crowd.token for crowd in crowds]))  # tokens a second
        first = chain.prompt.trip + float(chances @ [crowd.met for crowd in crowds])
        behind = float(chances @ [crowd.behind for crowd in crowds])
        borne = rate_per_s < bearable
        wait = waiting_s(rate_per_s, behind, share) if borne else math.inf
        middle = min(wait, waiting_s(rate_per_s, behind, _MIDDLE))
        return Cadence(
            first + (middle if borne else 0.0),
            first + wait,
            sessions / told if told else crowds[0].turn,
            _tokens_within(chances, crowds, rate_per_s, share),
            sessions,
            max(1.0, min(sessions + 1, most) / self.depth),
            bearable,
        )

    def _crowd(self, sessions: int, rate_per_s: float) -> _Crowd:
        prompt = self.chain.prompt
        trip, busy = self._at(max(1.0, sessions / self.depth))
        steps = max(1, min(self.depth, sessions))
        slowest, longest = float(busy.max(initial=0.0)), float(prompt.busy.max(initial=0.0))
        turn = max(trip, steps * slowest)
        between = steps * slowest if sessions else 0.0
        behind = longest + between
        free = max(0.0, 1 - rate_per_s * behind)
        held = longest + max(0.0, prompt.trip - longest - trip) * free
        # Texts that come close to each other: the prompts behind its own all hold it up.
        queue = rate_per_s * behind / (2 * max(1 - rate_per_s * behind, _LEAST_FREE))
        followers = rate_per_s * (prompt.trip + queue * behind)
        after = followers * held / max(1, self.chain.texts.steps)
        token = max((turn + after) / max(1 - rate_per_s * held, _LEAST_FREE), _LEAST)
        taken = np.minimum(1.0, steps * busy / token) * (sessions > 0)
        return _Crowd(turn, token, held, behind, float((taken * busy).sum()) / 2)

    def _at(self, width: float) -> tuple[float, Stations]:
        """Between whole widths in a line."""
        below, above = math.floor(width), math.ceil(width)
        one, other = self.step(below), self.step(above)
        share = width - below
        return (
            one.trip + share * (other.trip - one.trip),
            one.busy + share * (other.busy - one.busy),
        )

    def _rate(self, most: int) -> float:
        """Texts a second that keep no station busy all the time, with all sessions there may be."""
        width = max(1.0, most / self.depth)
        steps = self.chain.texts.steps
        trip, busy = self._at(width)
        each = self.chain.prompt.busy + steps * busy / width
        stations = float(each.max(initial=0.0))
        turn = max(trip, self.depth * float(busy.max(initial=0.0)))
        # Of all sessions that there may be, while prompts take their share.
        prompts = float(self.chain.prompt.busy.max(initial=0.0))
        stay = steps * turn / most + prompts
        return 1 / max(stations, stay, _LEAST)


def _tokens_within(
    chances: Stations, crowds: list[_Crowd], rate_per_s: float, share: float
) -> float:
    """What most of the tokens stay within: some are held up by a prompt, the others by none."""
    told = []
    for number, (chance, crowd) in enumerate(zip(chances, crowds, strict=True)):
        tokens = chance * number / crowd.token
        held = min(1.0, rate_per_s * crowd.token)
        told.append((crowd.turn, tokens * (1 - held)))
        told.append((crowd.turn + crowd.held, tokens * held))
    left = share * sum(tokens for _, tokens in told)
    for seconds, tokens in sorted(told):
        left -= tokens
        if left <= 0:
            return seconds
    return crowds[0].turn
