"""What a door remembers of inputs beyond their answer: bounded, each for its own reason.

| kept | why | until |
|---|---|---|
| results | a repeated id is answered without computing again | `input.dedupe_s`, 4096, 32 MiB |
| cancels | one may overtake the input it is about | 10 s, 1024 |
| deaths | an input that ends its node is found at the third | answered, unused, 4096, 4 MiB |
| retry budget | a breaking chain is not loaded with its own repetitions | earned by answers |

The bytes are of everything that an entry holds, for a device chooses more of it than the result:
its name, the id and Correlation Data, the Response Topic.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from dsi_mqtt.core.request import Redelivery, Reply
from dsi_mqtt.core.sizes import KIB, MIB

KEPT_MAX: Final = 4096
KEPT_BYTES_MAX: Final = 32 * MIB
CANCELLED_MAX: Final = 1024
CANCELLED_S: Final = 10.0
DEATHS_MAX: Final = 4096
DEATHS_BYTES_MAX: Final = 4 * MIB
# The objects of one entry, without the texts and bytes in them.
KEPT_ENTRY_BYTES: Final = KIB
DEATHS_ENTRY_BYTES: Final = 512
# A number and its place in a tuple.
TOKEN_BYTES: Final = 40
RETRY_SHARE: Final = 0.2
BUDGET_LEAST: Final = 20.0


@dataclass(frozen=True, slots=True)
class _Kept:
    reply: Reply
    until: float
    nbytes: int


class KeptAnswers:
    """Results by input key, oldest first out."""

    def __init__(self, count_max: int = KEPT_MAX, bytes_max: int = KEPT_BYTES_MAX) -> None:
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._nbytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        return self._nbytes

    def get(self, key: str, now: float) -> Reply | None:
        kept = self._kept.get(key)
        return kept.reply if kept is not None and kept.until > now else None

    def keep(self, key: str, reply: Reply, until: float) -> None:
        """Replaces what was kept of `key`; lets go of the oldest beyond either bound."""
        self._drop(key)
        nbytes = _held_bytes(key, reply)
        self._kept[key] = _Kept(reply, until, nbytes)
        self._nbytes += nbytes
        while len(self._kept) > self._count_max or self._nbytes > self._bytes_max:
            self._drop(next(iter(self._kept)))

    def expire(self, now: float) -> None:
        while self._kept:
            key, kept = next(iter(self._kept.items()))
            if kept.until > now:
                return
            self._drop(key)

    def _drop(self, key: str) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._nbytes -= kept.nbytes


def _held_bytes(key: str, reply: Reply) -> int:
    texts = (key, reply.device, reply.identity, reply.topic, reply.content_type)
    blobs = len(reply.body) + len(reply.correlation or b"")
    if reply.completion is not None:
        completion = reply.completion
        blobs += _text_bytes(completion.text) + TOKEN_BYTES * len(completion.tokens)
    return KEPT_ENTRY_BYTES + blobs + sum(_text_bytes(text) for text in texts if text is not None)


def _text_bytes(text: str) -> int:
    """As it lies in memory: up to four bytes a character where one is not ASCII."""
    return len(text) if text.isascii() else 4 * len(text)


class Cancelled:
    """Keys of inputs that were cancelled before they came."""

    def __init__(self) -> None:
        self._until: OrderedDict[str, float] = OrderedDict()

    def note(self, key: str, now: float) -> None:
        self._until.pop(key, None)
        self._until[key] = now + CANCELLED_S
        if len(self._until) > CANCELLED_MAX:
            self._until.popitem(last=False)

    def holds(self, key: str, now: float) -> bool:
        return self._until.get(key, now) > now

    def expire(self, now: float) -> None:
        while self._until and next(iter(self._until.values())) <= now:
            self._until.popitem(last=False)


class Deaths:
    """Of each suspect, at how many deaths it was alone in the chain; the shell retains the same.

    Only of inputs that run alone because of it, and of those whose earlier door left a record.
    The least recently touched go first.
    """

    def __init__(self, count_max: int = DEATHS_MAX, bytes_max: int = DEATHS_BYTES_MAX) -> None:
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._records: OrderedDict[str, tuple[Redelivery, float]] = OrderedDict()
        self._nbytes = 0

    def __len__(self) -> int:
        return len(self._records)

    def of(self, key: str) -> Redelivery:
        record, _ = self._records.get(key, (Redelivery(key, 0), 0.0))
        return record

    def found(self, record: Redelivery, now: float) -> list[str]:
        """A record of an earlier door, or an earlier one of this: what is known here may be newer.

        Returns the keys that had to make room: what is retained of them is of no use any more.
        """
        known = self._records.get(record.key)
        return self.put(record if known is None or known[0].count < record.count else known[0], now)

    def put(self, record: Redelivery, now: float) -> list[str]:
        """What is true from now on. Returns the keys that had to make room."""
        self.cleared(record.key)
        if record.void:
            return []
        self._records[record.key] = record, now
        self._nbytes += _key_bytes(record.key)
        gone = []
        while len(self._records) > self._count_max or self._nbytes > self._bytes_max:
            oldest = next(iter(self._records))
            self.cleared(oldest)
            gone.append(oldest)
        return gone

    def cleared(self, key: str) -> None:
        if self._records.pop(key, None) is not None:
            self._nbytes -= _key_bytes(key)

    def clear(self) -> list[str]:
        """Nothing is remembered any more. Returns the keys of which something is retained."""
        keys = list(self._records)
        self._records.clear()
        self._nbytes = 0
        return keys

    def unused(self, now: float, age_s: float) -> list[str]:
        """Keys untouched for `age_s`: nobody repeats these inputs any more."""
        return [key for key, (_, since) in self._records.items() if now - since >= age_s]


def _key_bytes(key: str) -> int:
    return DEATHS_ENTRY_BYTES + _text_bytes(key)


class RetryBudget:
    """Retries may be at most a share of the answers, with room for two full windows."""

    def __init__(self) -> None:
        self._most = self._left = BUDGET_LEAST

    def window_is(self, window: int) -> None:
        """Another window: the room changes, what has been spent stays spent."""
        most = max(BUDGET_LEAST, 2.0 * window)
        self._left = max(0.0, self._left + most - self._most)
        self._most = most

    def earn(self) -> None:
        self._left = min(self._most, self._left + RETRY_SHARE)

    def spend(self) -> bool:
        if self._left < 1:
            return False
        self._left -= 1
        return True
