"""What is asked of the system, and what the whole model makes of it, undisturbed and beforehand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np

from dsi_mqtt.chaos.layouts import LAYOUTS, UNITS, Layout
from dsi_mqtt.core.activation import JSON, TOKENS, Row, Tensor, pack_body, unpack_body
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.generation import Sampling
from dsi_mqtt.engine.base import Engine
from dsi_mqtt.engine.fake import FakeFactory
from dsi_mqtt.wire.files import deployment_of

ONE_PASS: Final = "hazards"  # noqa: S105 - a deployment's name
GENERATING: Final = "chat"
DEADLINE_S: Final = 30.0
# Behind the deadline, before an input counts as lost.
LOST_AFTER_S: Final = DEADLINE_S + 30.0

TEXTS: Final = 400
PROMPTS: Final = 24
MAX_TOKENS: Final = 48
TEMPERATURE: Final = 5.0
_WORDS: Final = 16


def deployments(layout: Layout) -> tuple[Deployment, Deployment]:
    """One of each kind, cut alike: an input passes the same three nodes as a token.

    Activations of one pass are large enough for links to matter.
    """
    common: dict[str, Any] = {
        "schema": "dsi.deployment/1",
        "split": [{"units": units, "nodes": list(nodes)} for units, nodes in layout.parts],
        "policy": {
            "cooldown_s": 1,
            "standbys": layout.standbys,
            "min_gain": layout.min_gain,
        },
    }
    options = {
        "units": UNITS,
        "unit_ms": 1,
        "weight_mib": list(layout.unit_mib),
        "allocate": True,
    }
    one_pass = {
        **common,
        "name": ONE_PASS,
        "model": {"tier": "fake", "options": {**options, "hidden": 2048, "values": 16}},
        "privacy": {"units": {"0:2": ["city"]}},
        "sla": {"latency_ms": 300, "deadline_ms": DEADLINE_S * 1e3, "rate_per_s": 20},
    }
    generating = {
        **common,
        "name": GENERATING,
        "kind": "generation",
        "model": {"tier": "fake", "options": {**options, "unit_ms": 0.5}},
        "generation": {"context": 256, "max_tokens": MAX_TOKENS, "idle_s": 0, "kv_mib_max": 4},
        "privacy": {"units": {"0:2": ["city"]}},
        "sla": {"deadline_ms": DEADLINE_S * 1e3},
    }
    found = [deployment_of(each, Path("chaos")) for each in (one_pass, generating)]
    return found[0], found[1]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A generation to ask for, and the tokens that it must come to."""

    text: str
    seed: int
    tokens: tuple[int, ...]


class Reference:
    """Inputs, in an order that never ends, with their results."""

    def __init__(self, seed: int) -> None:
        one_pass, generating = deployments(LAYOUTS["spares"])
        random = Random(f"{seed}/inputs")  # noqa: S311 - it must be repeatable
        texts = [f"report {n} of {random.randrange(10**6)}" for n in range(TEXTS)]
        whole = _opened(one_pass)
        self.results = {text: _result(whole, text) for text in texts}
        self.prompts = tuple(_generated(generating, random) for _ in range(PROMPTS))
        # What anybody may be told as a result, as it stands in answers.
        self.known = {said(result) for result in self.results.values()}
        self.known |= {said(list(prompt.tokens)) for prompt in self.prompts}

    def texts(self) -> Iterator[str]:
        while True:
            yield from self.results

    def generations(self) -> Iterator[Prompt]:
        while True:
            yield from self.prompts


def said(result: Any) -> str:  # noqa: ANN401 - any JSON value
    """A result as text, the same for equal ones."""
    return json.dumps(result, sort_keys=True)


def _opened(spec: Deployment) -> Engine:
    generation = spec.generation if spec.kind == "generation" else None
    engine = FakeFactory(sleep=lambda _: None).open(spec.model, generation)
    engine.load(engine.graph.whole)
    return engine


def _result(whole: Engine, text: str) -> Any:  # noqa: ANN401 - any JSON value
    body = pack_body(JSON, json.dumps(text).encode())
    return json.loads(unpack_body(whole.forward(whole.graph.whole, (Row(),), body))[1])


def _generated(spec: Deployment, random: Random) -> Prompt:
    whole = _opened(spec)
    text = " ".join(f"w{random.randrange(_WORDS)}" for _ in range(random.randint(1, 16)))
    sampling = Sampling(TEMPERATURE, seed=random.randrange(2**32))
    fed, made, at = list(whole.text().read(text)), list[int](), 0
    while len(made) < MAX_TOKENS:
        tensor = np.array([fed[at:]], "<i8")
        (out,) = whole.forward(
            whole.graph.whole,
            (Row("s", at, len(fed) - at),),
            (Tensor(TOKENS, "int64", tensor.shape, tensor.tobytes()),),
            sampling=(sampling,),
        )
        at = len(fed)
        made.append(int(np.frombuffer(out.data, "<i8")[0]))
        fed.append(made[-1])
    return Prompt(text, sampling.seed, tuple(made))
