"""A chain that serves texts, event by event: what `core.cadence` puts in a few lines is held to it.

Stations serve one after the other; a step of decoding goes through all of them with the sessions
that it carries, and comes back to the door, which starts the next one. It shares no code with the
planner but the name of what it measures.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from statistics import fmean


@dataclass(frozen=True)
class Chain:
    """work(tokens, sessions): seconds at each station of a slice, or of a step. hop_s: of each."""

    prompt_s: tuple[float, ...]
    step_s: Callable[[int], tuple[float, ...]]
    hop_s: float
    new_tokens: int
    sessions_max: int = 64


@dataclass
class Session:
    came: float
    left: int
    began: float | None = None
    told_at: float = 0.0


@dataclass
class Played:
    firsts: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)
    waiting: int = 0

    @property
    def token_s(self) -> float:
        return fmean(self.tokens)


Step = tuple[str, list[Session]]


class Ring:
    def __init__(self, chain: Chain, depth: int, rate_per_s: float, seed: int) -> None:
        self.chain, self.depth, self.random = chain, depth, Random(seed)
        self.rate = rate_per_s
        self.free = [0.0] * len(chain.prompt_s)
        self.events: list[tuple[float, int, str, object]] = []
        self.number = 0
        self.waiting: deque[Session] = deque()
        self.due: deque[Session] = deque()
        self.running: list[Session] = []
        self.in_chain: list[Step] = []
        self.seen = Played()

    def play(self, texts: int) -> Played:
        at = 0.0
        for _ in range(texts):
            at += self.random.expovariate(self.rate)
            self.put(at, "came", Session(at, self.chain.new_tokens))
        while self.events:
            now, _, what, given = heapq.heappop(self.events)
            if what == "came":
                self.waiting.append(given)  # type: ignore[arg-type]
            elif what == "arrives":
                self.arrives(given, now)  # type: ignore[arg-type]
                continue
            else:
                self.back(given, now)  # type: ignore[arg-type]
            self.pump(now)
        return self.seen

    def put(self, at: float, what: str, given: object) -> None:
        self.number += 1
        heapq.heappush(self.events, (at, self.number, what, given))

    def arrives(self, given: tuple[Step, int], now: float) -> None:
        step, station = given
        kind, sessions = step
        spent = self.chain.prompt_s if kind == "prompt" else self.chain.step_s(len(sessions))
        self.free[station] = max(now, self.free[station]) + spent[station]
        at = self.free[station] + self.chain.hop_s
        if station + 1 == len(self.free):
            self.put(at, "back", step)
        else:
            self.put(at, "arrives", (step, station + 1))

    def back(self, step: Step, now: float) -> None:
        self.in_chain.remove(step)
        for session in step[1]:
            if session.began is None:
                session.began = now
                self.seen.firsts.append(now - session.came)
            else:
                self.seen.tokens.append(now - session.told_at)
            session.told_at, session.left = now, session.left - 1
            if session.left:
                self.due.append(session)
            else:
                self.running.remove(session)

    def pump(self, now: float) -> None:
        while self.waiting and len(self.running) < self.chain.sessions_max:
            session = self.waiting.popleft()
            self.running.append(session)
            self.due.append(session)
        while self.starts(now):
            pass
        self.seen.waiting = max(self.seen.waiting, len(self.waiting))

    def starts(self, now: float) -> bool:
        steps = sum(kind == "step" for kind, _ in self.in_chain)
        decoding = [session for session in self.due if session.began is not None]
        filling = [session for session in self.due if session.began is None]
        if decoding and steps < self.depth:
            running = sum(session.began is not None for session in self.running)
            chosen, kind = decoding[: math.ceil(running / self.depth)], "step"
        elif filling and len(self.in_chain) - steps < len(self.free):
            chosen, kind = filling[:1], "prompt"
        else:
            return False
        for session in chosen:
            self.due.remove(session)
        step = (kind, chosen)
        self.in_chain.append(step)
        self.put(now + self.chain.hop_s, "arrives", (step, 0))
        return True


def played(chain: Chain, rate_per_s: float, texts: int = 400, seed: int = 1) -> Played:
    """With the depth that gives the quickest tokens, as a door finds by trial."""
    found = [
        Ring(chain, depth, rate_per_s, seed).play(texts)
        for depth in range(1, len(chain.prompt_s) + 1)
    ]
    return min(found, key=lambda seen: seen.token_s)


def within(values: list[float], share: float) -> float:
    return sorted(values)[math.ceil(share * len(values)) - 1]
