"""One generation in a door's hands: what it was asked, what is committed, what has been fed.

reading ──(prompt read)──► waiting ──(its turn, and room)──► ready ◄──► stepping ──► ended
   │                          ▲                               ▲         only its text is
   └──► recalling: what an ───┘  recording: its deaths ◄──────┤         still waited for
        earlier door told        are being retained           │
        is asked for             moving: the last piece ◄─────┘
                                 of its caches is copied
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from dsi_mqtt.core.activation import Row
from dsi_mqtt.core.generation import Ask, Completion, FinishReason, Partial, Sampling, rolling_hash
from dsi_mqtt.core.line import Request
from dsi_mqtt.core.message import Failure
from dsi_mqtt.core.model import ModelGraph
from dsi_mqtt.core.peers import Member
from dsi_mqtt.core.request import Input
from dsi_mqtt.core.stops import StopFinder
from dsi_mqtt.core.table import Stamp, Table

# So that the steps of others pass between the slices of a long prompt.
SLICE_TOKENS: Final = 256

# How often the broker is asked whether anybody hears a stream.
ASK_S: Final = 1.0
# A device that has lost its connection may be back by then.
UNHEARD_S: Final = 2.0
_TEXT_ID_BYTES: Final = 16

State = Literal[
    "reading", "recalling", "waiting", "recording", "moving", "ready", "stepping", "ended"
]


@dataclass(slots=True, eq=False)
class Session:
    """name: what segments know it by, once it runs. table: whose nodes have its caches. lane: by
    which replicas serve it. head: who knows what was drawn of it. take: see docs/generation.md.
    recomputes: the table for which its caches are not to be copied.

    tokens: the prompt, then what is committed. ends: token ids that end the text. fed: positions
    that every segment is thought to hold; most: that it may ever have held. broken: steps in a row
    that came to nothing; stale: that a node refused. redelivered: an earlier door died with it,
    nobody knows at which position. alone: it may not share a step, for one that it shared failed.
    fallback: its model is not the deployment's own.
    """

    request: Request
    state: State = "reading"
    ask: Ask | None = None
    name: str = ""
    table: Table | None = None
    head: Member | None = None
    recomputes: Stamp | None = None
    lane: int = 0
    take: int = 0
    tokens: list[int] = field(default_factory=list)
    prompt_tokens: int = 0
    max_tokens: int = 0
    ends: tuple[int, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    fed: int = 0
    most: int = 0
    broken: int = 0
    stale: int = 0
    redelivered: bool = False
    not_before: float = 0.0
    alone: bool = False
    unheard_since: float | None = None
    asked_at: float = float("-inf")
    finish: FinishReason | None = None
    text: Text | None = None
    fallback: bool = False

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_tokens

    @property
    def room(self) -> int:
        """Positions it may come to hold."""
        return self.prompt_tokens + self.max_tokens

    @property
    def is_decoding(self) -> bool:
        """Whether one position is all there is to feed."""
        return len(self.tokens) - self.fed == 1

    @property
    def is_told(self) -> bool:
        """Whether its device has been shown a part of the text, which cannot be taken back."""
        return self.text is not None and self.text.shown > 0

    def begins(
        self, ask: Ask, tokens: tuple[int, ...], graph: ModelGraph, context: int
    ) -> Failure | None:
        """Its prompt is read, into `tokens`; or why it cannot run. context: positions that the
        deployment lets a session have; the model may have less.
        """
        vocabulary = graph.vocabulary
        context = min(context, vocabulary.context if vocabulary else 0)
        if len(tokens) >= context:
            return self._too_long(len(tokens), context)
        self.ask, self.tokens = ask, list(tokens)
        self.prompt_tokens = len(tokens)
        self.ends = vocabulary.ends if vocabulary else ()
        self.max_tokens = min(ask.max_tokens, context - len(tokens))
        sampling = ask.sampling(noise_seed(self.request.given))
        self.sampling = replace(
            sampling, text=text_id(self.request.key, graph.digest, tokens, sampling)
        )
        if self.request.suspect:
            self.request.suspect_to = max(self.request.suspect_to, len(tokens))
        self.text = Text(self, StopFinder(ask.stop))
        return None

    def resumes(self, told: Iterable[int], take: int) -> tuple[int, ...]:
        """An earlier door had drawn `told` of it. What of that is text; may end the session."""
        self.take = take
        text = tuple(token for token in told if self.finish is None and self.commit(token))
        self.request.suspect_to = max(self.request.suspect_to, len(self.tokens))
        return text

    def _too_long(self, tokens: int, context: int) -> Failure:
        sentence = f"the prompt has {tokens} tokens; with room for one more the context"
        if self.fallback:  # the own model may take it
            told = f"{sentence} of the fallback, which serves now, takes {context - 1}; try later"
            return Failure("unavailable", told)
        return Failure("invalid_input", f"{sentence} takes {context - 1}; send less")

    def row(self) -> Row:
        """What to feed next."""
        return Row(self.name, self.fed, min(SLICE_TOKENS, len(self.tokens) - self.fed), self.take)

    def fed_by(self, row: Row) -> list[int]:
        return self.tokens[row.position : row.position + row.tokens]

    def samples(self, row: Row) -> bool:
        """Whether a token is drawn behind `row`."""
        return row.position + row.tokens == len(self.tokens)

    def stepped(self, row: Row) -> None:
        """All segments hold the row."""
        self.fed = row.position + row.tokens
        self.broken, self.stale, self.alone = 0, 0, False

    def commit(self, token: int) -> bool:
        """Takes up a token that was drawn; says whether it is text. May end the session."""
        if token in self.ends:
            self.finish = "stop"
            return False
        self.tokens.append(token)
        if self.generated >= self.max_tokens:
            self.finish = "length"
        return True

    def asks(self, now: float) -> bool:
        """Whether the broker is asked, with what is told now, if anybody hears it."""
        due = now >= self.asked_at + ASK_S
        self.asked_at = now if due else self.asked_at
        return due

    def is_unheard(self, now: float, *, heard: bool) -> bool:
        """heard: what the broker says. Whether nobody has heard it for long enough."""
        if heard:
            self.unheard_since = None
        elif self.unheard_since is None:
            self.unheard_since = now
        return self.unheard_since is not None and now - self.unheard_since >= UNHEARD_S


def noise_seed(given: Input) -> int:
    """The same whenever one input is told, so that the text is, too."""
    told = given.request if given.anonymous else given.key.encode()
    return int.from_bytes(hashlib.sha256(told).digest()[:6], "big")


def text_id(key: str, model: str, prompt: tuple[int, ...], sampling: Sampling) -> bytes:
    """The same for each telling of one input by one model, and not to be guessed without it."""
    told = repr((key, model, prompt, sampling))
    return hashlib.sha256(told.encode()).digest()[:_TEXT_ID_BYTES]


@dataclass(slots=True)
class Text:
    """The text of a session's committed tokens, as far as it is written.

    written: tokens whose text has come. shown: tokens in the partials made so far.
    """

    session: Session
    stops: StopFinder
    written: int = 0
    shown: int = 0
    text: str = ""
    unshown: str = ""
    hash: str = ""

    def came(self, tokens: int, piece: str) -> None:
        """The text of `tokens` more tokens."""
        self.written += tokens
        self._add(self.stops.push(piece))

    def ended(self, piece: str) -> None:
        """Nothing follows but `piece`."""
        self._add(self.stops.push(piece))
        if not self.stops.found:
            self._add(self.stops.flush())

    def partial(self, *, last: bool = False) -> Partial | None:
        """What has not been shown; None while there is nothing that can be read."""
        if self.written == self.shown or not (self.unshown or last):
            return None
        index, text = self.shown, self.unshown
        tokens = self._tokens(index, self.written)
        self.shown, self.unshown = self.written, ""
        self.hash = rolling_hash(self.hash, tokens)
        return self._partial(index, tokens, text)

    def all_shown(self) -> Partial | None:
        """Everything shown so far in one."""
        if not self.shown:
            return None
        text = self.text.removesuffix(self.unshown) if self.unshown else self.text
        return self._partial(0, self._tokens(0, self.shown), text)

    def completion(self) -> Completion:
        session = self.session
        tokens = self._tokens(0, self.written)
        return Completion(
            session.take,
            tokens,
            self.text,
            rolling_hash("", tokens),
            session.finish or "stop",
            session.prompt_tokens,
            session.fallback,
        )

    def _partial(self, index: int, tokens: tuple[int, ...], text: str) -> Partial:
        session = self.session
        return Partial(session.take, index, tokens, text, self.hash, session.fallback)

    def _tokens(self, first: int, last: int) -> tuple[int, ...]:
        start = self.session.prompt_tokens
        return tuple(self.session.tokens[start + first : start + last])

    def _add(self, piece: str) -> None:
        self.text += piece
        self.unshown += piece
