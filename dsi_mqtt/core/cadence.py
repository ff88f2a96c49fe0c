"""What a chain promises of texts that come at random: how soon they begin, and how they go on.

A *step* of decoding carries one position of several sessions; how many is its *width*. As many
steps as the chain has nodes at most, its *depth*, go round at once. While n sessions decode, a
step takes a *turn*, its trip or as long as all of them take at the busiest station,

    turn(n)  = max(trip(n / depth), depth · busiest(n / depth))

or one that a prompt holds up. A step passes a prompt nowhere: one that starts when the newest
prompt has been on its way for y, and would catch it up, comes back when that does. So whether a
turn is held up depends on whether prompts came during the turn before, which was long itself if
that was held up: two states, in which a step goes round.

The number of sessions is that of a queue that is served in turns, with rates that depend on it:
each new text adds one, `n / (steps · token(n))` end in a second, and what texts are like matters
only by its mean (Kelly, "Reversibility and Stochastic Networks", 1979, on symmetric queues):

    p(n) / p(n - 1) = rate · steps · token(n) / n

Such a queue looks the same backwards: where one of n sessions meets n - 1 others, these came within
the time of a text, however many come on average. So many prompts hold up its steps. Where all
places are taken texts wait for one, and the number of those falls as in any queue with so many
servers. A prompt then waits for steps in service, and for prompts before it (`core/queueing.py`),
between which the steps that they held up pass.

The depth is the one that gives the quickest tokens, as the door finds by trial (`core/depth.py`).
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
_LEAST: Final = 1e-12  # seconds
# Where events come more seldom, differences between them are lost to rounding.
_SELDOM: Final = 1e-6
_ROUNDS: Final = 8

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
    """first_s: until the first token, with a wait for other prompts and for a place that half the
    texts stay within; first_within_s: most do. prompt_s: the same of a prompt that waits for steps
    alone. token_s: of one token after the other; token_within_s: most stay within. sessions: that
    decode at once, on average. width: of a step, as sessions see it. rate_per_s: the most texts
    that can be served for long.
    """

    first_s: float
    first_within_s: float
    token_s: float
    token_within_s: float
    sessions: float
    width: float
    rate_per_s: float
    prompt_s: float

    def meets(self, sla: Sla) -> bool:
        """Whether most texts and tokens come within what the deployment asks for, if it does."""
        asked = (sla.first_token_ms, self.first_within_s), (sla.token_ms, self.token_within_s)
        return self.sustained and all(ms is None or 1e3 * told <= ms for ms, told in asked)

    @property
    def sustained(self) -> bool:
        return math.isfinite(self.first_within_s)


@dataclass(frozen=True, slots=True)
class Rhythm:
    """A chain. prompt: of a whole prompt. step: by width. nodes: how many it has. ways: that
    sessions go, where segments have replicas; a step goes one of them, and how long stations are
    busy is the mean of all. meeting: how likely two sessions share a node. coming: by station, the
    share of the sessions that come there; None: all.
    """

    texts: Texts
    prompt: Times
    step: Callable[[int], Times]
    nodes: int
    sessions_max: int
    ways: int = 1
    meeting: float = 1.0
    coming: Stations | None = None

    def cadence(self, rate_per_s: float, share: float) -> Cadence:
        """share: of the texts, and of tokens, that the longer times hold for."""
        step = cache(self.step)
        rhythms = [_Round(self, step, depth) for depth in self._depths()]
        found = [each.cadence(rate_per_s, share) for each in rhythms]
        quickest = min(found, key=lambda one: (not one.sustained, one.token_s, -one.rate_per_s))
        return replace(quickest, rate_per_s=max(one.rate_per_s for one in found))

    def _depths(self) -> range:
        return range(self.ways, max(self.ways, min(self.nodes, self.sessions_max)) + 1)


@dataclass(frozen=True, slots=True)
class _Turns:
    """Of a step, in seconds. free: that no prompt holds up. held: by one, after a free turn and
    after a held one, each with the share of all turns that are like it. begins, again: that a turn
    is held behind a free one, and behind a held one.
    """

    free: float
    held: tuple[tuple[float, float], tuple[float, float]]
    begins: float = 0.0
    again: float = 0.0

    @property
    def mean(self) -> float:
        (first, often), (next_, seldom) = self.held
        return (1 - often - seldom) * self.free + often * first + seldom * next_

    def behind_own(self, turns: int) -> float:
        """How much longer the first so many take together that come right behind a prompt."""
        (first, often), (next_, seldom) = self.held
        held = often + seldom
        if not held:
            return 0.0
        lasts = self.again - self.begins
        more = (1 - held) * lasts * (1 - lasts**turns) / (1 - lasts)
        return more * ((often * first + seldom * next_) / held - self.free)


def _turns(free: float, passes: float, rate_per_s: float) -> _Turns:
    """passes: seconds that a prompt is on its way. A step that starts when the newest prompt did so
    y ago, and would catch it up, is back when that is: after `passes - y`. So what counts are the
    prompts that came within the turn before.
    """
    late = max(0.0, passes - free)  # a step that starts later than that meets it nowhere
    if not rate_per_s or not late:
        return _Turns(free, ((free, 0.0), (free, 0.0)))
    after_free = min(free, late)
    after_held = min(late, passes - _age(rate_per_s, late))
    first, next_ = (passes - _age(rate_per_s, since) for since in (after_free, after_held))
    begins, again = (-math.expm1(-rate_per_s * since) for since in (after_free, after_held))
    held = begins / (begins + 1 - again)
    return _Turns(free, ((first, held * (1 - again)), (next_, held * again)), begins, again)


def _age(rate_per_s: float, most: float) -> float:
    """How long ago the newest of random events was, if it was less than `most`."""
    came = -math.expm1(-rate_per_s * most)
    return 1 / rate_per_s - most * (1 - came) / came if came > _SELDOM else most / 2


@dataclass(frozen=True, slots=True)
class _Crowd:
    """While so many sessions decode, in seconds. token: of one, prompts that hold it up counted in.
    behind: that a prompt keeps the next one waiting. met: that it waits for steps.
    """

    turns: _Turns
    token: float
    behind: float
    met: float


@dataclass(frozen=True, slots=True)
class _Round:
    """The same with so many steps in the chain at once."""

    chain: Rhythm
    step: Callable[[int], Times]
    depth: int

    def cadence(self, rate_per_s: float, share: float) -> Cadence:
        chain, most = self.chain, self._places
        crowded = self._crowd(most)
        bearable = self._rate(crowded)
        crowds = [self._crowd(0, rate_per_s)]
        likely = [0.0]  # as logarithms
        while len(likely) <= most and likely[-1] > max(likely) + _RARE:
            number = len(likely)
            crowds.append(self._crowd(number, rate_per_s))
            each = rate_per_s * chain.texts.steps * crowds[-1].token
            likely.append(likely[-1] + math.log(each / number) if each else -math.inf)
        chances = np.exp(np.array(likely) - max(likely))
        # Behind the last place others wait: one as often as that is taken, each further one less
        # so by the load.
        leaves_s = self._leaves_s(crowded) if len(crowds) > most else 0.0
        borne = rate_per_s < bearable
        chances[-1] /= 1 - rate_per_s * leaves_s if borne else 1.0
        chances /= chances.sum()
        numbers = np.arange(len(likely))
        sessions = float(chances @ numbers)
        told = float(chances @ (numbers / [crowd.token for crowd in crowds]))  # tokens a second
        first = chain.prompt.trip + float(chances @ [crowd.met for crowd in crowds])
        behind = float(chances @ [crowd.behind for crowd in crowds])
        met_per_s = rate_per_s * self._coming
        wait = middle = waiting_s(met_per_s, behind, _MIDDLE)
        if borne:
            full = float(chances[-1]) if leaves_s else 0.0
            wait = waiting_s(met_per_s, behind, share)
            wait = max(wait, middle + _place_s(full, rate_per_s, leaves_s, share))
            middle += _place_s(full, rate_per_s, leaves_s, _MIDDLE)
        return Cadence(
            first + middle if borne else first,
            first + wait if borne else math.inf,
            sessions / told if told else crowds[0].turns.free,
            _tokens_within(chances, crowds, share),
            sessions,
            max(1.0, min(sessions + 1, most) / self.depth),
            bearable,
            first,
        )

    @property
    def _places(self) -> int:
        return min(self.chain.sessions_max, self.depth * BATCH_MAX)

    def _leaves_s(self, crowded: _Crowd) -> float:
        """From one text that ends to the next, while all places are taken."""
        return self.chain.texts.steps * crowded.token / self._places

    @property
    def _slowest(self) -> int:
        """The station that is busiest with prompts."""
        return int(self.chain.prompt.busy.argmax()) if self.chain.prompt.busy.size else -1

    @property
    def _coming(self) -> float:
        """The share of the sessions whose prompts come there."""
        coming = self.chain.coming
        return 1.0 if coming is None or self._slowest < 0 else float(coming[self._slowest])

    def _crowd(self, sessions: int, rate_per_s: float | None = None) -> _Crowd:
        """rate_per_s: of texts; None: so many that there are as many sessions all the time."""
        prompt, steps_of_text = self.chain.prompt, max(1, self.chain.texts.steps)
        width = max(1, math.ceil(sessions / self.depth))
        steps = math.ceil(sessions / width)
        step = self.step(width)
        between = steps * _busiest(step.busy) if sessions and self.chain.texts.steps else 0.0
        behind = _busiest(prompt.busy) / self._coming + between
        free = max(step.trip, between, _LEAST)
        others, token = self.chain.meeting * max(0, sessions - 1), free
        for _ in range(_ROUNDS):
            rate = others / (steps_of_text * token)
            queue = rate if rate_per_s is None else rate_per_s * self._coming
            load = min(queue * behind, 1 - _LEAST_FREE)
            passes = prompt.trip + behind * load / (2 * (1 - load))
            turns = _turns(free, passes, rate)
            found = turns.mean + turns.behind_own(steps_of_text) / steps_of_text
            token = math.sqrt(token * max(found, _LEAST))
        taken = np.minimum(1.0, steps * step.busy / token)
        return _Crowd(turns, token, behind, float((taken * step.busy).sum()) / 2)

    def _rate(self, crowded: _Crowd) -> float:
        """Texts a second that keep no station busy all the time, with all sessions there may be."""
        steps, width = self.chain.texts.steps, math.ceil(self._places / self.depth)
        each = self.chain.prompt.busy + steps * self.step(width).busy / width
        behind = crowded.behind * self._coming
        return 1 / max(_busiest(each), self._leaves_s(crowded), behind, _LEAST)


def _place_s(full: float, rate_per_s: float, leaves_s: float, share: float) -> float:
    """What `share` of the texts wait at most for a place. full: how many find all taken. leaves_s:
    from one that is left to the next, at random: so many servers of a queue (M/M/s).
    """
    if full <= 1 - share:
        return 0.0
    load = rate_per_s * leaves_s
    return leaves_s * math.log(full / (1 - share)) / (1 - load)


def _busiest(stations: Stations) -> float:
    return float(stations.max(initial=0.0))


def _tokens_within(chances: Stations, crowds: list[_Crowd], share: float) -> float:
    """What most of the tokens stay within."""
    told = []
    for number, (chance, crowd) in enumerate(zip(chances, crowds, strict=True)):
        tokens, turns = chance * number / crowd.token, crowd.turns
        free = 1 - sum(part for _, part in turns.held)
        told += [(turns.free, tokens * free)]
        told += [(seconds, tokens * part) for seconds, part in turns.held]
    left = share * sum(tokens for _, tokens in told)
    for seconds, tokens in sorted(told):
        left -= tokens
        if left <= 0:
            return seconds
    return crowds[0].turns.free
