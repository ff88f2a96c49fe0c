"""A door of generations to try things on."""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dsi_mqtt.core.activation import JSON, TOKENS, Row, Tensor
from dsi_mqtt.core.deployment import Deployment, Generation
from dsi_mqtt.core.drawn import as_tensor
from dsi_mqtt.core.effects import (
    EchoHearing,
    Effects,
    PublishPartial,
    PublishReply,
    ReadPrompt,
    Transmit,
    WriteRecord,
    WriteText,
)
from dsi_mqtt.core.events import PromptRead, TextWritten
from dsi_mqtt.core.generation import Completion, Partial
from dsi_mqtt.core.message import WORK, Activation, Header
from dsi_mqtt.core.model import ModelGraph, Unit, Vocabulary
from dsi_mqtt.core.request import Input, ParsedInput, Redelivery
from dsi_mqtt.core.table import Table
from dsi_mqtt.wire.asks import read_ask
from tests.core.build import A, B, C, Member, make_input, make_spec, make_table
from tests.core.desk import Desk

ON_B = make_table((A, (0, 3)), (B, (3, 6)), epoch=1)
ON_C = make_table((A, (0, 3)), (C, (3, 6)), epoch=2)
END = 2
STATE_BYTES = 1024
GRAPH = ModelGraph(
    "m1",
    "fake",
    tuple(Unit(f"u{i}", 10, 1.0, 4, STATE_BYTES) for i in range(6)),
    vocabulary=Vocabulary(1000, 100, (END,)),
)


def spec(**limits: object) -> Deployment:
    generation = replace(Generation(context=1000, max_tokens=5, idle_s=30.0), **limits)  # type: ignore[arg-type]
    return replace(make_spec(max_bytes=100_000), kind="generation", generation=generation)


def asking(number: int, *, device: str = "cam", duplicate: bool = False, **ask: object) -> Input:
    body = json.dumps({"prompt": [50 + number], "temperature": 0, **ask}).encode()
    given = make_input(number, device=device, duplicate=duplicate)
    return replace(given, parsed=ParsedInput(None, JSON, body), nbytes=len(body))


def is_question(activation: Activation) -> bool:
    return bool(activation.header.recall) and not activation.tensors


class Desk2(Desk):
    """A door of generations, whose prompts are token ids and whose tokens read " 7".

    remembered: what nodes say when they are asked for a text: its first position and its tokens;
    None: nobody answers.
    """

    remembered: tuple[int, Sequence[int]] | None = (0, ())

    def __init__(self, table: Table | None = ON_B, *, door: Member = A, **limits: object) -> None:
        super().__init__(table, spec(**limits), door)
        self.do(self.door.model_is(GRAPH, self.now))

    def do(self, effects: Effects) -> Desk2:
        super().do(effects)
        for effect in effects:
            if isinstance(effect, ReadPrompt):
                ask = read_ask(effect.parsed.body, effect.limits)
                assert isinstance(ask.prompt, tuple)
                tokens = tuple(token for token in ask.prompt if isinstance(token, int))
                read = PromptRead(effect.deployment, effect.request, ask, tokens)
                self.do(self.door.text_event(read, self.now))
            elif isinstance(effect, EchoHearing):
                self.do(self.door.hearing_proven(effect.asked_at, self.now))
            elif isinstance(effect, Transmit) and is_question(effect.activation):
                self._remember(effect.activation.header)
        return self

    def _remember(self, question: Header) -> None:
        if self.remembered is not None:
            first, tokens = self.remembered
            told = question.told_door("done", (Row("", first, len(tokens)),))
            tensor = as_tensor(array("q", tokens))
            self.do(self.door.done(Activation(told, (tensor,)), self.now))

    def write(self) -> Desk2:
        """Every text that is to be written is."""
        for effect in [e for e in self.effects if isinstance(e, WriteText)]:
            self.effects.remove(effect)
            text = "".join(f" {token}" for token in effect.tokens)
            told = TextWritten(
                effect.deployment, effect.request, len(effect.tokens), text, effect.last
            )
            self.do(self.door.text_event(told, self.now))
        return self

    def steps(self) -> list[Activation]:
        found = [
            e.activation
            for e in self.effects
            if isinstance(e, Transmit) and e.activation.header.kind in WORK
        ]
        self.effects = [
            e for e in self.effects if not (isinstance(e, Transmit) and e.activation in found)
        ]
        return found

    def step(self) -> Activation:
        (only,) = self.steps()
        return only

    def drawn(self, step: Activation, *tokens: int) -> Desk2:
        """The head answers a step."""
        data = np.array(tokens or [-1] * len(step.header.rows), "<i8")
        done = replace(step.header, kind="done", source="s1", target="door")
        tensor = Tensor(TOKENS, "int64", data.shape, data.tobytes())
        return self.do(self.door.done(Activation(done, (tensor,)), self.now))

    def stale(self, step: Activation, *have: Row) -> Desk2:
        return self.do(self.door.broke(replace(step.header, kind="stale", rows=have), self.now))

    def lost(self, step: Activation) -> Desk2:
        return self.do(self.door.broke(replace(step.header, kind="lost"), self.now))

    def partials(self) -> list[Partial]:
        return [e.partial for e in self.effects if isinstance(e, PublishPartial)]

    def completions(self) -> list[Completion]:
        replies = [e.reply for e in self.effects if isinstance(e, PublishReply)]
        return [reply.completion for reply in replies if reply.completion is not None]


def ticking(desk: Desk, seconds: float) -> Sequence[str]:
    """Time goes by as in a node that does not stand still; the errors told by then."""
    for _ in range(round(seconds * 10)):
        desk.wait(0.1)
    return desk.codes()


def fed(step: Activation) -> list[int]:
    return [int(token) for token in np.frombuffer(step.tensors[0].data, "<i8")]


def places(step: Activation) -> list[tuple[int, int]]:
    return [(row.position, row.tokens) for row in step.header.rows]


def pass_on(desk: Desk2, token: int = 40) -> None:
    """What is in the chain comes through it."""
    for step in desk.steps():
        draws = [how is not None for how in step.header.sampling]
        desk.drawn(step, *(token if drawn else -1 for drawn in draws)).retain()


def records_of(desk: Desk2) -> list[Redelivery]:
    return [e.record for e in desk.effects if isinstance(e, WriteRecord)]


def headers(effects: Effects, kind: str) -> list[Header]:
    sent = [e.activation.header for e in effects if isinstance(e, Transmit)]
    return [header for header in sent if header.kind == kind]


def started(desk: Desk2, many: int) -> list[Activation]:
    """So many sessions that have their first token; what is in the chain then."""
    inputs = [asking(n, prompt=[50 + n, 9], max_tokens=500) for n in range(1, many + 1)]
    desk.give(*inputs)
    chain = desk.steps()
    while sum(len(step.header.rows) for step in chain if step.header.kind == "decode") < many:
        step = next((s for s in chain if s.header.kind == "prefill"), chain[0])
        chain.remove(step)
        desk.drawn(step, *([40] * len(step.header.rows)))
        chain += desk.steps()
    return chain
