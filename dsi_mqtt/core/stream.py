"""The client's side of a generation's stream: what was told, once and in order.

A door tells tokens as they are committed, in messages that may come twice, late, or not at all
(the answer holds everything). A new door tells the text from its beginning, as a higher take. What
the reader sees is one text: each token once; and only where a take differs from what it has
already seen does the text begin anew.

Memory is bounded by the text itself: pieces that nobody has taken are one piece, and of messages
that came too early the nearest `AHEAD_MAX` are kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from dsi_mqtt.core.generation import Completion, Partial, rolling_hash
from dsi_mqtt.errors import request_error

AHEAD_MAX: Final = 256


@dataclass(frozen=True, slots=True)
class Piece:
    """What has come since the piece before.

    index: number of the first of `tokens`, from 0. take: which telling of the text it is from.
    replaces: the text begins anew with this piece, and everything before it no longer counts.
    fallback: it is of the deployment's fallback.
    """

    text: str
    tokens: tuple[int, ...]
    index: int
    take: int
    replaces: bool = False
    fallback: bool = False


@dataclass(slots=True)
class _Take:
    """One telling, as far as it is known without a gap.

    ends: after how many tokens a message ended → characters by then; text can be told apart
    there only. ahead: messages behind a gap, by (index, number of tokens).
    """

    number: int
    fallback: bool = False
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    hash: str = ""
    ends: dict[int, int] = field(default_factory=lambda: {0: 0})
    ahead: dict[tuple[int, int], Partial] = field(default_factory=dict)

    def told(self, partial: Partial) -> bool:
        """False for what contradicts what is known."""
        if partial.index < 0:
            return False
        if partial.index > len(self.tokens):
            self.ahead[partial.index, len(partial.tokens)] = partial
            if len(self.ahead) > AHEAD_MAX:
                del self.ahead[max(self.ahead)]
            return True
        agrees = self._absorb(partial)
        while ready := sorted(key for key in self.ahead if key[0] <= len(self.tokens)):
            for key in ready:
                agrees &= self._absorb(self.ahead.pop(key))
        return agrees

    def _absorb(self, partial: Partial) -> bool:
        """Takes the part that is new; the part that is known must be the same."""
        known = len(self.tokens) - partial.index
        new = partial.tokens[known:]
        if partial.tokens[:known] != tuple(self.tokens[partial.index :][: len(partial.tokens)]):
            return False
        characters = self.ends.get(partial.index)
        if not new or characters is None:
            return True
        text = self.text[:characters] + partial.text
        if rolling_hash(self.hash, new) != partial.hash or not text.startswith(self.text):
            return False
        self.tokens += new
        self.text = text
        self.hash = partial.hash
        self.ends[len(self.tokens)] = len(text)
        return True


class TokenStream:
    """State machine of one generation: messages in, pieces out.

    Invariants: what the reader has seen is the first `_seen_tokens` and `_seen_characters` of the
    take, unless `_before` holds it, from an earlier take, until the present one is known to go on
    from there or to differ. A take never goes back.
    """

    def __init__(self) -> None:
        self._take = _Take(-1)
        self._seen_tokens = 0
        self._seen_characters = 0
        self._before: tuple[tuple[int, ...], str] | None = None
        self._answered = False
        self.contradictions = 0

    def told(self, partial: Partial) -> None:
        """A message that contradicts what is known is counted and dropped: the answer decides."""
        if self._answered or partial.take < self._take.number:
            return
        if partial.take > self._take.number:
            self._begin(_Take(partial.take, partial.fallback))
        self.contradictions += not self._take.told(partial)

    def answered(self, completion: Completion) -> None:
        """The answer has the last word, whatever its take.

        Raises RequestError when its hash is not that of its tokens.
        """
        if rolling_hash("", completion.tokens) != completion.hash:
            raise request_error("failed", "the answer's hash is not that of its tokens; ask again")
        self._begin(
            _Take(
                completion.take,
                completion.fallback,
                list(completion.tokens),
                completion.text,
                completion.hash,
            )
        )
        self._answered = True

    def piece(self) -> Piece | None:
        """Everything that came since the last piece; None when that is nothing."""
        take = self._take
        if self._before is not None:
            tokens, text = self._before
            told = tuple(take.tokens)
            if not (told[: len(tokens)] == tokens and take.text.startswith(text)):
                again = tokens[: len(told)] == told and text.startswith(take.text)
                # What was seen is told again: nothing to say yet, unless that was all.
                return None if again and not self._answered else self._shown(0, 0, replaces=True)
            self._seen_tokens, self._seen_characters = len(tokens), len(text)
            self._before = None
        if (len(take.tokens), len(take.text)) == (self._seen_tokens, self._seen_characters):
            return None
        return self._shown(self._seen_tokens, self._seen_characters)

    def _begin(self, take: _Take) -> None:
        seen = self._seen_tokens, self._seen_characters
        if self._before is None and seen != (0, 0):
            self._before = tuple(self._take.tokens[: seen[0]]), self._take.text[: seen[1]]
        self._take = take
        self._seen_tokens = self._seen_characters = 0

    def _shown(self, index: int, characters: int, *, replaces: bool = False) -> Piece:
        """All of the take from there, which the reader has seen now."""
        take = self._take
        self._before = None
        self._seen_tokens, self._seen_characters = len(take.tokens), len(take.text)
        text, tokens = take.text[characters:], tuple(take.tokens[index:])
        return Piece(text, tokens, index, take.number, replaces, take.fallback)
