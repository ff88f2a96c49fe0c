"""Verification: it accepts what is exact and finds each way of being wrong."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from dsi_mqtt.core.model import ModelSpec, UnitRange
from dsi_mqtt.engine.torch import TorchFactory, verify
from dsi_mqtt.engine.torch.build import one_pass
from dsi_mqtt.engine.torch.split import SplitModel, _SegmentPass
from dsi_mqtt.engine.torch.tiny import shrunk
from dsi_mqtt.engine.torch.verify import verify_layer
from dsi_mqtt.errors import SplitError

LIKE_RELEASED = [
    "BertModel", "RobertaModel", "DistilBertModel", "MPNetModel", "DebertaV2Model",
    "ModernBertModel", "ViTModel", "Dinov2Model", "CLIPVisionModel", "SwinModel", "ResNetModel",
    "ConvNextModel", "GPT2LMHeadModel", "LlamaForCausalLM", "MistralForCausalLM",
    "MixtralForCausalLM", "Qwen3ForCausalLM", "Gemma3ForCausalLM", "GPTNeoXForCausalLM",
    "FalconForCausalLM", "BloomForCausalLM", "OPTForCausalLM", "Phi3ForCausalLM",
]  # fmt: skip


def check(name: str, dtype: torch.dtype = torch.float32, **changes: Any) -> None:
    cls = getattr(transformers, name)
    verify_layer(cls, one_pass(cls.config_class(**changes)), dtype)


@pytest.mark.parametrize("name", LIKE_RELEASED)
def test_kinds_of_models_that_split_exactly(name: str) -> None:
    """At their released sizes, which no test could hold: the tiny configuration is derived."""
    check(name)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_half_precision_too(dtype: torch.dtype) -> None:
    check("BertModel", dtype)
    check("LlamaForCausalLM", dtype)


@pytest.mark.parametrize("positions", [2, 5, 8, 12, 14])
@pytest.mark.parametrize("name", ["BertModel", "RobertaModel", "GPT2LMHeadModel"])
def test_models_of_few_positions_are_tried_on_inputs_that_fit(name: str, positions: int) -> None:
    if name == "RobertaModel":  # the first two are never used
        positions += 2
    check(name, max_position_embeddings=positions)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("T5EncoderModel", "relative_attention_bias"),
        ("AlbertModel", "not called once and in order"),
        ("XLNetModel", "a second tensor would cross"),
        ("MobileViTModel", "a second tensor would cross"),
    ],
)
def test_models_that_are_no_chain_are_refused_with_a_reason(name: str, reason: str) -> None:
    with pytest.raises(SplitError, match=reason):
        check(name)


def test_t5_is_refused_when_opened(checkpoint: Any) -> None:
    with pytest.raises(SplitError, match="second tensor would cross"):
        TorchFactory().open(ModelSpec(path=str(checkpoint("t5"))))


def dropping(unit: int) -> Any:
    """A pass that leaves one unit out."""
    right = _SegmentPass.block

    def block(self: Any, at: int, forward: Any, args: Any, kwargs: Any) -> Any:
        if at == unit and self.units.start < at < self.units.stop:
            return args[0]
        return right(self, at, forward, args, kwargs)

    return block


KINDS = ["BertModel", "LlamaForCausalLM", "GPT2LMHeadModel", "ViTModel"]


@pytest.mark.parametrize("name", KINDS)
def test_a_dropped_unit_is_found(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(_SegmentPass, "block", dropping(2))
    with pytest.raises(SplitError, match="do not compute what the whole does"):
        check(name)


@pytest.mark.parametrize("name", KINDS)
def test_swapped_units_are_found(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Where a segment holds both, they exchange their work."""
    right = SplitModel.run

    def swapped(self: Any, units: UnitRange, inputs: Any, stream: Any) -> Any:
        first, second = self._taps._modules[:2]
        if not {1, 2} <= set(range(*units)):
            return right(self, units, inputs, stream)
        call, one, two = first.forward.func, first.forward.args[1], second.forward.args[1]
        first.forward, second.forward = partial(call, 1, two), partial(call, 2, one)
        try:
            return right(self, units, inputs, stream)
        finally:
            first.forward, second.forward = partial(call, 1, one), partial(call, 2, two)

    monkeypatch.setattr(SplitModel, "run", swapped)
    with pytest.raises(SplitError, match="do not compute what the whole does"):
        check(name)


@pytest.mark.parametrize("name", ["BertModel", "LlamaForCausalLM", "GPT2LMHeadModel"])
def test_positions_shifted_by_one_are_found(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Later segments count positions from one instead of zero, or the prelude does."""
    right = SplitModel.run

    def shifted(self: Any, units: UnitRange, inputs: Any, stream: Any) -> Any:
        ids = inputs["input_ids"]
        rope = name == "LlamaForCausalLM"
        if units.start == (2 if rope else 0) and units.stop <= len(self.structure.blocks):
            inputs = {**inputs, "position_ids": torch.arange(ids.shape[1])[None] + 1}
        return right(self, units, inputs, stream)

    monkeypatch.setattr(SplitModel, "run", shifted)
    with pytest.raises(SplitError, match="do not compute what the whole does"):
        check(name)


def test_a_lost_mask_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = SplitModel.run

    def unmasked(self: Any, units: UnitRange, inputs: Any, stream: Any) -> Any:
        mask = inputs["attention_mask"]
        if units.start:
            inputs = {**inputs, "attention_mask": torch.ones_like(mask)}
        return right(self, units, inputs, stream)

    monkeypatch.setattr(SplitModel, "run", unmasked)
    with pytest.raises(SplitError, match="do not compute what the whole does"):
        check("BertModel")


def test_sliding_and_full_attention_both_reach_the_tiny_model() -> None:
    config = one_pass(transformers.Gemma3TextConfig())
    tiny = next(shrunk(config))
    assert (
        set(tiny.layer_types) == set(config.layer_types) == {"sliding_attention", "full_attention"}
    )
    assert tiny.sliding_window < max(verify._LENGTHS)


def test_the_tiny_model_is_tiny() -> None:
    config = one_pass(transformers.LlamaConfig(num_hidden_layers=80, hidden_size=8192,
                      num_attention_heads=64, num_key_value_heads=8, vocab_size=128_256,
                      bos_token_id=128_000, eos_token_id=128_001))  # fmt: skip
    model = verify.random_model(transformers.LlamaForCausalLM, next(shrunk(config)), torch.float32)
    assert sum(weight.numel() for weight in model.parameters()) < 500_000
    assert all(layer.self_attn.num_key_value_groups == 8 for layer in model.model.layers)


def test_what_was_found_exact_is_remembered_by_kind(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    right = verify._try_tiny

    def counted(cls: Any, *rest: Any) -> None:
        tried.append(cls.__name__)
        right(cls, *rest)

    monkeypatch.setattr(verify, "_try_tiny", counted)
    check("BertModel")
    check("BertModel")
    assert tried == ["BertModel"]
    check("BertModel", hidden_size=1024, num_attention_heads=16)
    check("BertModel", dtype=torch.float16)
    assert tried == ["BertModel"] * 3
    monkeypatch.setattr(f"{verify.__name__}.transformers.__version__", "0")
    check("BertModel")
    assert tried == ["BertModel"] * 4
    (own_cache / "verified.json").write_text("[]")
    check("BertModel")
    assert tried == ["BertModel"] * 5


def test_a_refusal_is_not_remembered(own_cache: Path) -> None:
    for _ in range(2):
        with pytest.raises(SplitError):
            check("AlbertModel")
    assert not (own_cache / "verified.json").exists()


def test_a_kind_whose_tiny_model_does_not_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ValueError("needs a lamp")

    monkeypatch.setattr(transformers.BertModel, "forward", broken)
    with pytest.raises(SplitError, match="untested: ValueError: needs a lamp"):
        check("BertModel")


def test_verification_of_an_engine(minilm: Path, own_cache: Path) -> None:
    engine = TorchFactory().open(ModelSpec(path=str(minilm)))
    engine.verify()
    assert engine.loaded_bytes() == 0
    assert list(json.loads((own_cache / "verified.json").read_text()).values()) == [True]
