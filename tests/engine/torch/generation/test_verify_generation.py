"""Verification of sessions: it accepts what is right and finds each way of being wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AttentionMaskInterface

from dsi_mqtt.core.activation import Row
from dsi_mqtt.engine.torch import verify_generation as verifying
from dsi_mqtt.engine.torch.build import one_pass
from dsi_mqtt.engine.torch.cache import StepCache
from dsi_mqtt.engine.torch.generation import POSITIONS, Manner
from dsi_mqtt.engine.torch.ragged import RAGGED, ragged_mask
from dsi_mqtt.engine.torch.sessions import Sessions
from dsi_mqtt.engine.torch.verify import verify_layer
from dsi_mqtt.engine.torch.verify_generation import verify_generation
from dsi_mqtt.errors import SplitError
from tests.engine.torch.generation.causal import opened

LIKE_RELEASED = [
    "LlamaForCausalLM", "Qwen3ForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM",
    "GPT2LMHeadModel", "PhiForCausalLM", "MixtralForCausalLM", "Qwen3MoeForCausalLM",
    "GptOssForCausalLM", "Llama4ForCausalLM", "FalconForCausalLM", "BloomForCausalLM",
]  # fmt: skip


def check(name: str, dtype: torch.dtype = torch.float32, **changes: Any) -> None:
    cls = getattr(transformers, name)
    verify_generation(cls, one_pass(cls.config_class(**changes)), dtype)


@pytest.mark.parametrize("name", LIKE_RELEASED)
def test_kinds_of_models_whose_sessions_are_right(name: str) -> None:
    """At their released sizes, which no test could hold: the tiny configuration is derived."""
    check(name)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_half_precision_too(dtype: torch.dtype) -> None:
    check("LlamaForCausalLM", dtype)


def refused(name: str) -> str:
    with pytest.raises(SplitError) as raised:
        check(name)
    return str(raised.value)


def test_positions_shifted_by_one_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Manner.inputs

    def shifted(self: Any, ids: Any, rows: Any, cache: Any) -> Any:
        inputs = right(self, ids, rows, cache)
        return inputs | {POSITIONS: inputs[POSITIONS] + (ids.shape[1] == 1)}

    monkeypatch.setattr(Manner, "inputs", shifted)
    assert "differ by" in refused("LlamaForCausalLM")


def test_swapped_sessions_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Sessions.open

    def swapped(self: Any, rows: Any, units: Any) -> Any:
        opened = right(self, rows, units)
        return {layer: [*stores[1:], stores[0]] for layer, stores in opened.items()}

    monkeypatch.setattr(Sessions, "open", swapped)
    assert "differ by" in refused("LlamaForCausalLM")


@pytest.mark.parametrize("wrong", [3, 5])
def test_a_window_off_by_one_is_found(wrong: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def narrow_or_wide(*sizes: Any, mask_function: Any, **rest: Any) -> Any:
        if rest.get("local_size") is not None:

            def mask_function(rows: Any, heads: Any, queries: Any, keys: Any) -> Any:
                return (keys <= queries) & (keys > queries - wrong)

        return ragged_mask(*sizes, mask_function=mask_function, **rest)

    monkeypatch.setitem(AttentionMaskInterface._global_mapping, RAGGED, narrow_or_wide)
    assert "differ by" in refused("MistralForCausalLM")


def test_a_cache_that_does_not_cut_back_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps before it are right; only what goes back finds keys that are not its own."""
    right = StepCache.update

    def longest(self: Any, keys: Any, values: Any, layer: int, **rest: Any) -> Any:
        made = right(self, keys, values, layer, **rest)
        if keys.shape[2] == 3 and len(self._firsts) == 2:
            self._stores[layer][0].keys.narrow(2, 0, 6).zero_()
        return made

    monkeypatch.setattr(StepCache, "update", longest)
    assert "at position 8 differ by" in refused("LlamaForCausalLM")


def test_lengths_of_held_layers_alone_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a plain cache for each segment would say of layers that it does not hold: nothing."""
    right = StepCache.get_seq_length

    def forgetful(self: Any, layer_idx: int = 0) -> int:
        return right(self, layer_idx) if layer_idx in self._stores else 0

    monkeypatch.setattr(StepCache, "get_seq_length", forgetful)
    assert "differ by" in refused("FalconForCausalLM")


def test_what_fails_is_refused_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ValueError("needs a lamp")

    monkeypatch.setattr(Sessions, "keep", broken)
    assert refused("LlamaForCausalLM").endswith("sessions fail with ValueError: needs a lamp")
    monkeypatch.undo()
    monkeypatch.setattr(transformers.LlamaForCausalLM, "forward", broken)
    assert refused("LlamaForCausalLM").endswith("are untested: ValueError: needs a lamp")


def test_what_was_found_right_is_remembered_apart_from_one_pass(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[torch.dtype] = []

    def counted(cls: Any, config: Any, dtype: torch.dtype) -> None:
        tried.append(dtype)

    monkeypatch.setattr(verifying, "_try_tiny", counted)
    verify_layer(transformers.LlamaForCausalLM, one_pass(transformers.LlamaConfig()), torch.float32)
    check("LlamaForCausalLM")
    check("LlamaForCausalLM")
    assert tried == [torch.float32]
    check("LlamaForCausalLM", torch.float16)
    assert tried == [torch.float32, torch.float32, torch.float16]
    assert list(json.loads((own_cache / "verified.json").read_text()).values()) == [True] * 3


def test_verification_of_an_engine(folder: Any, own_cache: Path) -> None:
    engine = opened(folder("llama"))
    engine.verify()
    assert engine.loaded_bytes() == 0
    assert engine.state_bytes("0") == 0
    assert len(json.loads((own_cache / "verified.json").read_text())) == 1


def test_the_tried_sessions_leave_the_windows_of_the_tiny_model_behind() -> None:
    assert all(sum(pieces) + verifying._STEPS > 4 for pieces in verifying._PROMPTS)
    assert len({sum(pieces) for pieces in verifying._PROMPTS}) == 3
    rows = [row for rows, _ in verifying._schedule(SOME) for row in rows]
    assert Row("0", 18, 1) in rows
    assert max(row.position + row.tokens for row in rows) <= verifying._CONTEXT


SOME = [verifying.Told(list(range(40)), torch.zeros(40, 3))] * 3
