"""The site of `harness`, serving generations: fake engines with sessions, and a client that checks.

Every stream that a client hears is held against the telling it claims to be, and every text
against the one that an undisturbed engine writes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from dsi_mqtt.core import effects as fx
from dsi_mqtt.core import events as ev
from dsi_mqtt.core.activation import TOKENS, Row, Tensor
from dsi_mqtt.core.attempts import POISON_AT
from dsi_mqtt.core.client import SendInput
from dsi_mqtt.core.deployment import FALLBACK_MARK, Deployment, Generation, InputLimits, Sla
from dsi_mqtt.core.generation import Partial, Sampling, rolling_hash
from dsi_mqtt.core.message import Failure
from dsi_mqtt.core.model import ModelSpec
from dsi_mqtt.core.request import Reply
from dsi_mqtt.core.two_models import TwoModels
from dsi_mqtt.engine.fake import FakeEngine, FakeFactory
from dsi_mqtt.engine.fake_sessions import FakeText, FakeTextStream
from dsi_mqtt.errors import InvalidInputError, ModelFailedError, SessionStaleError, WireError
from dsi_mqtt.wire.asks import read_ask
from tests.core.build import NAME
from tests.core.harness import Node, Site
from tests.core.harness_broker import LINK_S, Outcome, SimClient
from tests.core.harness_maker import UNITS

GENERATION = Generation(context=400, sessions_max=5, queue_max=50, max_tokens=12, idle_s=5.0)
SPEC = Deployment(
    NAME,
    ModelSpec(tier="fake", options={"units": UNITS, "weight_mib": 0}),
    kind="generation",
    input=InputLimits(dedupe_s=20.0),
    sla=Sla(deadline_ms=60_000.0),
    generation=GENERATION,
)
END = 3
# Of the deployment's own model, and of its fallback where it has one.
DIGESTS = {NAME: "m1", NAME + FALLBACK_MARK: "m2"}


def opened(generation: Generation = GENERATION, units: int = UNITS) -> FakeEngine:
    options = {**(SPEC.model.options or {}), "ends": [END], "units": units}
    model = replace(SPEC.model, options=options)
    return FakeFactory(sleep=lambda _: None).open(model, generation)


@cache
def expected_tokens(prompt: str, seed: int, max_tokens: int, units: int = UNITS) -> tuple[int, ...]:
    """What one engine alone makes of it, step by step."""
    engine = opened(units=units)
    engine.load(engine.graph.whole)
    fed = list(FakeText(16).read(prompt))
    position = 0
    made: list[int] = []
    while len(made) < max_tokens:
        new = np.array([fed[position:]], "<i8")
        (out,) = engine.forward(
            engine.graph.whole,
            (Row("s", position, new.shape[1]),),
            (Tensor(TOKENS, "int64", new.shape, new.tobytes()),),
            sampling=(Sampling(5.0, seed=seed),),
        )
        token = int(np.frombuffer(out.data, "<i8")[0])
        if token == END:
            break
        position = len(fed)
        fed.append(token)
        made.append(token)
    return tuple(made)


def text_of(tokens: tuple[int, ...]) -> str:
    return FakeTextStream().push(tokens)


class GeneratingNode(Node):
    """A node whose engine keeps sessions. slow_s: what a step takes, if not a chance. positions:
    that it has computed. imported: copies of caches that it has taken in.
    """

    slow_s: float | None = None
    weight_bytes = 100_000_000

    def __init__(self, site: Site, name: str) -> None:
        super().__init__(site, name)
        self.models = self.engines()
        self.texts: dict[bytes, FakeTextStream] = {}
        self.positions = 0
        self.imported = 0

    def spec(self) -> Deployment:
        return SPEC

    def start(self) -> None:
        if self.worker is None:
            self.models = self.engines()
            self.texts = {}
        super().start()

    def engines(self) -> dict[str, FakeEngine]:
        """By the name of their model."""
        return {NAME: opened()}

    def performers(self) -> dict[str, Callable[[Any], None]]:
        return {
            **super().performers(),
            "ExportState": lambda e: self._thread(0.001, lambda: self._export(e)),
            "ImportState": lambda e: self._thread(0.001, lambda: self._import(e)),
            "CloseSessions": lambda e: self._thread(0.0, lambda: self._close(e)),
            "ReadPrompt": self._read,
            "WriteText": self._write,
            "ForgetText": self._forget,
            "PublishPartial": self._partial,
            "EchoHearing": lambda e: self.soon(2 * LINK_S, ev.HearingProven(NAME, e.asked_at)),
            "OpenModel": lambda e: self._thread(0.02, lambda: self._opened(e.deployment.name)),
            "LoadUnits": lambda e: self._thread(0.05, lambda: self._loaded(e)),
            "DropUnits": lambda e: self._thread(
                0.0, lambda: self.models[e.deployment].drop(e.units)
            ),
        }

    @property
    def sessions(self) -> set[str]:
        """Those that the engine keeps anything of."""
        return {
            name
            for model in self.models.values()
            for name in model._sessions._states
            if model.state_bytes(name)
        }

    def _opened(self, name: str) -> None:
        digest = DIGESTS[name]
        self.handle(ev.ModelOpened(name, replace(self.models[name].graph, digest=digest)))

    def _loaded(self, effect: fx.LoadUnits) -> None:
        self.models[effect.deployment].load(effect.units)
        self.handle(ev.UnitsLoaded(effect.deployment, effect.units, 1.0))

    def _close(self, effect: fx.CloseSessions) -> None:
        for session in effect.sessions:
            self.models[effect.deployment].close(session)

    def _export(self, job: fx.ExportState) -> None:
        try:
            blob = self.models[job.deployment].export_state(
                job.session, job.units, job.first, job.last
            )
        except ModelFailedError:
            self.handle(ev.StateStale(job.job))
        else:
            self.handle(ev.StateExported(job.job, blob))

    def _import(self, job: fx.ImportState) -> None:
        try:
            self.models[job.deployment].import_state(
                job.session, job.units, job.first, job.last, job.blob
            )
        except SessionStaleError as error:
            self.handle(ev.StateStale(job.job, error.have[job.session]))
        except WireError:
            self.handle(ev.StateStale(job.job))
        else:
            self.imported += 1
            self.handle(ev.StateImported(job.job))

    def _compute(self, job: fx.Compute) -> None:
        drawn = self.site.rng.uniform(0.001, 0.006)
        seconds = drawn if self.slow_s is None else self.slow_s * sum(r.tokens for r in job.rows)
        self._thread(seconds, lambda: self._computed(job))

    def _computed(self, job: fx.Compute) -> None:
        if self.client.is_deadly(job):
            self.kill(will=True)
            self.site.after(0.3, self.start)
            return
        self.computed += 1
        self.positions += sum(row.tokens for row in job.rows)
        try:
            model = self.models[job.deployment]
            out = model.forward(job.units, job.rows, job.tensors, sampling=job.sampling)
        except SessionStaleError as error:
            self.handle(ev.ComputeStale(job.job, error.have))
        else:
            self.handle(ev.Computed(job.job, out, 0.01))

    def _read(self, effect: fx.ReadPrompt) -> None:
        request = effect.request
        try:
            ask = read_ask(effect.parsed.body, effect.limits)
            tokens = FakeText(16).read(ask.prompt)
        except InvalidInputError as error:
            failure = Failure("invalid_input", str(error))
            self.soon(0.001, ev.PromptRefused(effect.deployment, request, failure))
        else:
            self.soon(0.001, ev.PromptRead(effect.deployment, request, ask, tokens))

    def _write(self, effect: fx.WriteText) -> None:
        stream = self.texts.setdefault(effect.request, FakeTextStream())
        text = stream.push(effect.tokens)
        count = len(effect.tokens)
        told = ev.TextWritten(effect.deployment, effect.request, count, text, effect.last)
        self.soon(0.001, told)

    def _forget(self, effect: fx.ForgetText) -> None:
        self.texts.pop(effect.request, None)

    def _partial(self, effect: fx.PublishPartial) -> None:
        self.site.after(LINK_S, lambda: self.client.hear(effect.given.correlation, effect.partial))

    @property
    def client(self) -> GeneratingClient:
        assert isinstance(self.site.client, GeneratingClient)
        return self.site.client


class GeneratingClient(SimClient):
    """Streams everything it asks for. tellings: of each input, by take, the tokens heard.

    deadly: of poisonous inputs, the position that ends the node which computes it.
    """

    def __init__(self, site: Site) -> None:
        self.deadly: dict[bytes, int] = {}
        self.tellings: dict[bytes, dict[int, dict[int, int]]] = {}
        self.completed: dict[bytes, tuple[int, tuple[int, ...]]] = {}
        super().__init__(site)

    def ask(self, prompt: str, **fields: object) -> bytes:
        number = next(self._numbers)
        id_ = number.to_bytes(16, "big")
        asked = {"prompt": prompt, "seed": number, "temperature": 5.0, "stream": True, **fields}
        self.outcomes[id_] = Outcome(json.dumps(asked))
        self.tellings[id_] = {}
        self._act(self.pending.submitted(id_, self.site.now + 120.0, self.site.now))
        return id_

    def is_deadly(self, job: fx.Compute) -> bool:
        """Whether a session reaches its deadly position, in the unit that does not bear it."""
        running = {
            name: session.request.given.correlation
            for node in self.site.alive()
            for door in node.machine._doors.values()
            if isinstance(door._runs, TwoModels)
            for runs in (door._runs.own, door._runs.other)
            for name, session in runs._schedule.running.items()
        }
        for row in job.rows:
            at = self.deadly.get(running.get(row.session) or b"", -1)
            if row.position <= at < row.position + row.tokens and at % UNITS in job.units:
                return True
        return False

    def hear(self, id_: bytes | None, partial: Partial) -> None:
        assert id_ is not None
        if not self._up:
            return
        told = self.tellings[id_].setdefault(partial.take, {})
        for index, token in enumerate(partial.tokens, partial.index):
            assert told.setdefault(index, token) == token, "a telling changed its text"
        known = range(partial.index + len(partial.tokens))
        if all(index in told for index in known):
            assert rolling_hash("", (told[index] for index in known)) == partial.hash

    def receive(self, reply: Reply) -> None:
        assert reply.correlation is not None
        if not self._up or not self.pending.answered(reply.correlation):
            return
        outcome = self.outcomes[reply.correlation]
        if reply.failure is not None or reply.completion is None:
            outcome.errors.append(reply.failure.code if reply.failure else "no completion")
            return
        completion = reply.completion
        told = self.tellings[reply.correlation].get(completion.take, {})
        assert all(completion.tokens[index] == token for index, token in told.items())
        assert completion.hash == rolling_hash("", completion.tokens)
        assert completion.text == text_of(completion.tokens)
        outcome.results.append(completion.text)
        assert reply.fallback == completion.fallback
        self.completed[reply.correlation] = completion.take, completion.tokens

    def check(self, *, errors: frozenset[str] = frozenset()) -> None:
        """One answer for each input: the text of an engine that nothing disturbed.

        What is alone in the chain at three deaths cannot be told from a poisonous input.
        """
        for id_, outcome in self.outcomes.items():
            assert len(outcome.results) + len(outcome.errors) == 1, f"{outcome}"
            if outcome.results:
                assert self.completed[id_][1] == self.expected(id_, json.loads(outcome.text))
            else:
                deaths = self.site.alone.ended_in_death(outcome.text)
                deserved = id_ in self.deadly or deaths >= POISON_AT
                allowed = errors | {"poison"} if deserved else errors
                assert set(outcome.errors) <= allowed, f"{outcome}, {deaths} deaths alone"

    def expected(self, id_: bytes, asked: dict[str, Any]) -> tuple[int, ...]:
        most = asked.get("max_tokens", GENERATION.max_tokens)
        return expected_tokens(asked["prompt"], asked["seed"], most)


def generating_site(seed: int, **options: Any) -> Site:
    return Site(seed, node=GeneratingNode, client=GeneratingClient, **options)


__all__ = ["GENERATION", "GeneratingClient", "GeneratingNode", "SendInput", "generating_site"]
