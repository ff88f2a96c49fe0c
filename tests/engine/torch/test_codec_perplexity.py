"""What codecs do to a generating model: the perplexity of texts that are fed token by token."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from transformers import LlamaForCausalLM

from dsi_mqtt.core.codecs import PERPLEXITY
from dsi_mqtt.core.deployment import Generation
from dsi_mqtt.core.model import ModelSpec
from dsi_mqtt.engine import codec_errors as measured
from dsi_mqtt.engine.codec_errors import Way, codec_errors, way_errors
from dsi_mqtt.engine.torch import GenerationEngine, TorchFactory
from dsi_mqtt.errors import ConfigError

DECODER: Final = Path(__file__).parents[3] / "examples" / "decoder" / "model"
TEXTS: Final = (
    "# Introduction\nThe database file is opened when the application calls the interface.",
    "A transaction is committed.",
)


@pytest.fixture(scope="module")
def engine() -> GenerationEngine:
    return TorchFactory().open(ModelSpec(path=str(DECODER)), Generation(context=512))


def test_raw_hops_have_the_perplexity_of_the_whole_model(
    engine: GenerationEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured, "WINDOW", 16)
    windows = measured._windows(engine, TEXTS, 16)
    assert len(windows[0]) == 16
    told, coded = measured.surprises(
        engine, engine.logits, TEXTS, [Way("raw", (2, 4)), Way("fp16", (3,))], lambda: None
    )
    model: Any = LlamaForCausalLM.from_pretrained(DECODER, local_files_only=True)
    total, count = 0.0, 0
    for window in windows:
        ids = torch.tensor([window])
        with torch.inference_mode():
            logits = model(ids).logits[0, :-1].float()
        total += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
        count += len(window) - 1
    assert told == pytest.approx(total / count, rel=1e-5)
    assert coded[0] == pytest.approx(told, rel=1e-9)
    assert coded[1] != told
    assert engine.state_bytes("sample-0") == engine.loaded_bytes() == 0


def test_codecs_move_it_by_little(
    engine: GenerationEngine,
) -> None:
    ways = [Way("raw", (3,)), Way("fp16", (3,)), Way("int8g32", (3,))]
    raw, half, int8 = way_errors(engine, TEXTS, ways, PERPLEXITY)
    assert raw.worst == pytest.approx(0, abs=1e-6)
    assert 0 < abs(half.worst) < abs(int8.worst) < 0.02
    assert half.worst == half.mean
    again = codec_errors(engine, TEXTS[1:], ("raw", "int8g32"), PERPLEXITY)
    assert again["raw"] < 1e-6 < again["int8g32"]
    assert math.isfinite(again["int8g32"])


@pytest.mark.parametrize(
    ("samples", "said"),
    [([{"input": "x"}], "they are texts"), (["a"], "no text has two tokens or more")],
)
def test_samples_that_are_no_texts_are_refused(
    engine: GenerationEngine, samples: list[object], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        codec_errors(engine, samples, ("fp16",), PERPLEXITY)
