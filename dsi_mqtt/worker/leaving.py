"""What waits to leave a door, in order; of each stream at most one message at a time.

An answer that waits is not queued once more, though the machine repeats it: the connection may be
away for long.

A broker that is slower than the tokens come would else be sent ever older ones, and answers behind
them. What comes while a message of a stream is not through goes into one message after it. What is
left goes right before the answer, and nothing behind it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import replace

from dsi_mqtt.core.effects import (
    ClearRetained,
    EchoHearing,
    PublishPartial,
    PublishReply,
    WriteRecord,
)

Outgoing = PublishReply | PublishPartial | WriteRecord | ClearRetained | EchoHearing


class Leaving:
    """Invariant: a stream stands in the order once while it has tokens to tell and none is out."""

    def __init__(self) -> None:
        self._order: deque[Outgoing | bytes] = deque()
        self._partials: dict[bytes, PublishPartial] = {}
        self._out: set[bytes] = set()
        self._answers: set[bytes] = set()
        self._answers_out: set[bytes] = set()
        self._unfinished = 0
        self._changed = asyncio.Event()

    def put(self, effect: Outgoing) -> None:
        """At the end; what is put again, because it got lost, comes before what followed it."""
        if isinstance(effect, PublishPartial):
            if effect.request in self._answers or effect.request in self._answers_out:
                return  # it got lost; the answer, which would come before it, has it all
            waiting = self._partials.get(effect.request)
            self._partials[effect.request] = effect if waiting is None else joined(waiting, effect)
            if waiting is None and effect.request not in self._out:
                self._order.append(effect.request)
        elif not isinstance(effect, PublishReply):
            self._order.append(effect)
        elif effect.request not in self._answers:
            self._answers.add(effect.request)
            last = self._partials.pop(effect.request, None)
            self._order.extend([effect] if last is None else [last, effect])
        self._changed.set()

    async def get(self) -> Outgoing:
        """The next, which is out until `finished`."""
        while True:
            while self._order:
                first = self._order.popleft()
                effect = self._partials.pop(first, None) if isinstance(first, bytes) else first
                if effect is None:
                    continue  # it went with the answer
                if isinstance(effect, PublishPartial):
                    self._out.add(effect.request)
                elif isinstance(effect, PublishReply):
                    self._answers.discard(effect.request)
                    self._answers_out.add(effect.request)
                self._unfinished += 1
                return effect
            self._changed.clear()
            await self._changed.wait()

    def finished(self, effect: Outgoing) -> None:
        """It is not out any more, whether it got through or not."""
        self._unfinished -= 1
        if isinstance(effect, PublishPartial):
            self._out.discard(effect.request)
            if effect.request in self._partials:
                self._order.append(effect.request)
        elif isinstance(effect, PublishReply):
            self._answers_out.discard(effect.request)
        self._changed.set()

    async def empty(self) -> None:
        """Returns when nothing waits and nothing is out."""
        while self._order or self._unfinished:
            self._changed.clear()
            await self._changed.wait()


def joined(one: PublishPartial, other: PublishPartial) -> PublishPartial:
    """Two parts of a stream as one. Where they do not follow each other, the fuller one."""
    ask = one.ask or other.ask
    first, second = sorted((one, other), key=lambda effect: effect.partial.index)
    before, after = first.partial, second.partial
    if before.take != after.take:
        return replace(max(one, other, key=lambda effect: effect.partial.take), ask=ask)
    if before.index + len(before.tokens) != after.index:
        return replace(max(one, other, key=lambda effect: len(effect.partial.tokens)), ask=ask)
    tokens, text = before.tokens + after.tokens, before.text + after.text
    whole = replace(after, index=before.index, tokens=tokens, text=text)
    return replace(second, partial=whole, ask=ask)
