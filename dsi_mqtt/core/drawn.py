"""What this node's heads have drawn, so that a text outlives its door.

A door commits tokens, and alone has them all. When it dies, the next one tells each text from the
start; but what the head drew it has sent nowhere else, and it lives. So it keeps the tokens for a
while, by text, and tells them to the door that asks: that feeds them, as committed ones, in one
step, where it would have to draw each of them again. A node that becomes the head of a text
later is told by its door what was drawn before.

Positions count from the first token of the prompt. A token is drawn from all those before it, so
what a *take* draws at a position says that whatever was drawn from there on is void.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from dsi_mqtt.core.activation import TOKENS, Row, Tensor, Tensors
from dsi_mqtt.core.message import Header

# Behind the last token: longer than it takes until another door is named and has the input.
KEPT_S: Final = 60.0
# Of a node, in texts and in tokens of 8 bytes.
TEXTS_MAX: Final = 1024
TOKENS_MAX: Final = 1 << 18


def _ids(tensors: Tensors) -> list[int] | None:
    """Token ids; None: these are none."""
    if len(tensors) != 1 or (tensors[0].name, tensors[0].dtype) != (TOKENS, "int64"):
        return None
    ids: list[int] = np.frombuffer(tensors[0].data, "<i8").tolist()
    return ids


def tokens_of(tensors: Tensors, rows: int) -> list[int] | None:
    """One token id for each row, negative where none was drawn; None: these are no such."""
    drawn = _ids(tensors)
    return drawn if drawn is not None and len(drawn) == rows else None


def first_and_tokens(rows: tuple[Row, ...], tensors: Tensors) -> tuple[int, list[int]] | None:
    """Of a message about a text: tokens, and the position of the first; None: it tells of none."""
    told = _ids(tensors) if len(rows) == 1 else None
    return None if told is None else (rows[0].position, told)


def as_tensor(tokens: array[int]) -> Tensor:
    return Tensor(TOKENS, "int64", (len(tokens),), np.array(tokens, "<i8").tobytes())


@dataclass(slots=True)
class DrawnText:
    """tokens: from position `first` on. take: of the newest. at: when that was drawn."""

    take: int
    first: int
    at: float = 0.0
    tokens: array[int] = field(default_factory=lambda: array("q"))

    def drew(self, take: int, position: int, token: int) -> None:
        if take < self.take:
            return  # an older door goes on with it
        if not self.first <= position <= self.first + len(self.tokens):
            self.first = position  # what lies between was drawn elsewhere
        del self.tokens[position - self.first :]
        self.tokens.append(token)
        self.take = take

    def known(self, take: int, first: int, tokens: list[int]) -> None:
        """A door tells what was drawn, elsewhere, before what is drawn here next, or just was."""
        if take < self.take:
            return
        follows = take == self.take and first <= self.first <= first + len(tokens)
        since = self.tokens if follows else array("q")
        before = tokens[: self.first - first] if since else tokens
        self.take, self.first, self.tokens = take, first, array("q", before) + since


class DrawnTexts:
    """By deployment and text, as `Sampling.text` names it; those drawn for last come last."""

    def __init__(self) -> None:
        self._texts: OrderedDict[tuple[str, bytes], DrawnText] = OrderedDict()
        self._tokens = 0

    def __len__(self) -> int:
        return len(self._texts)

    def drew(self, header: Header, tensors: Tensors, now: float) -> None:
        """A step has come through the head."""
        tokens = tokens_of(tensors, len(header.rows)) if header.sampling else None
        for row, how, token in zip(header.rows, header.sampling, tokens or (), strict=False):
            if how is None or not how.text or token < 0:
                continue
            position = row.position + row.tokens
            text = self._taken((header.deployment, how.text), row.take, position)
            text.drew(row.take, position, token)
            self._put((header.deployment, how.text), text, now)

    def known(self, header: Header, tensors: Tensors, now: float) -> None:
        """A door tells what was drawn of a text before this node became its head."""
        told = first_and_tokens(header.rows, tensors)
        if told is not None:
            take, key = header.rows[0].take, (header.deployment, header.recall)
            text = self._taken(key, take, told[0])
            text.known(take, *told)
            self._put(key, text, now)

    def _taken(self, key: tuple[str, bytes], take: int, first: int) -> DrawnText:
        text = self._texts.pop(key, None) or DrawnText(take, first)
        self._tokens -= len(text.tokens)
        return text

    def _put(self, key: tuple[str, bytes], text: DrawnText, now: float) -> None:
        text.at = now
        self._texts[key] = text
        self._tokens += len(text.tokens)
        while len(self._texts) > TEXTS_MAX or self._tokens > TOKENS_MAX:
            self._drop(next(iter(self._texts)))

    def of(self, deployment: str, text: bytes) -> DrawnText | None:
        return self._texts.get((deployment, text))

    def expire(self, now: float) -> None:
        while self._texts:
            key, text = next(iter(self._texts.items()))
            if now - text.at < KEPT_S:
                return
            self._drop(key)

    def forget(self, deployment: str) -> None:
        """Its engine is gone."""
        for key in [key for key in self._texts if key[0] == deployment]:
            self._drop(key)

    def _drop(self, key: tuple[str, bytes]) -> None:
        self._tokens -= len(self._texts.pop(key).tokens)
