"""In the place of `bench_decode_plain generate`: the whole of a fake model, step by step.

    fake_generate.py OPTIONS WRONG

OPTIONS: JSON, of the fake model. WRONG: 0, or the number of the ask whose last token is changed;
-1 ends the program before it is ready.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np

from dsi_mqtt.core.activation import TOKENS, Row, Tensor
from dsi_mqtt.core.deployment import Generation
from dsi_mqtt.core.generation import Sampling
from dsi_mqtt.core.model import ModelSpec
from dsi_mqtt.engine.fake import FakeFactory


def generate(options: dict[str, Any], prompt: list[int], count: int) -> list[int]:
    engine = FakeFactory(sleep=lambda _: None).open(
        ModelSpec(options=options, tier="fake"), Generation(context=len(prompt) + count)
    )
    engine.load(engine.graph.whole)
    tokens = list(prompt)
    for _ in range(count):
        fed = np.array([tokens], "<i8")
        (drawn,) = engine.forward(
            engine.graph.whole,
            (Row("s", 0, len(tokens)),),
            (Tensor(TOKENS, "int64", fed.shape, fed.tobytes()),),
            sampling=(Sampling(0.0),),
        )
        tokens.append(int(np.frombuffer(drawn.data, "<i8")[0]))
    return tokens[len(prompt) :]


def tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    options, wrong = json.loads(sys.argv[1]), int(sys.argv[2])
    if wrong < 0:
        sys.exit("out of luck")
    tell("ready")
    for number, line in enumerate(sys.stdin, start=1):
        ask = json.loads(line)
        tokens = generate(options, ask["prompt"], ask["new_tokens"])
        if number == wrong:
            tokens[-1] ^= 1
        times = [time.perf_counter() + 0.01 * index for index in range(len(tokens))]
        tell(json.dumps({"tokens": tokens, "times_s": times}))


if __name__ == "__main__":
    main()
