"""What is opened for generation, and what its graph tells."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from dsi_mqtt.core.deployment import Generation
from dsi_mqtt.core.model import ModelSpec, Vocabulary
from dsi_mqtt.engine.torch import TorchFactory
from dsi_mqtt.engine.torch.build import read_config
from dsi_mqtt.engine.torch.generative import read_vocabulary
from dsi_mqtt.errors import CheckpointError, ConfigError, SplitError
from tests.engine.torch.generation.causal import CONTEXT, opened


@pytest.fixture
def copied(folder: Any, tmp_path: Path) -> Path:
    """A checkpoint folder to change."""
    return Path(shutil.copytree(folder("llama"), tmp_path / "llama"))


def graph_of(folder: Path) -> Any:
    return opened(folder).graph


def changed(folder: Path, name: str, **fields: Any) -> None:
    file = folder / name
    stored = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(stored | fields))


def test_the_graph_of_a_step_of_one_token(folder: Any) -> None:
    graph = opened(folder("llama")).graph
    blocks = [f"model.layers.{at}" for at in range(3)]
    assert [unit.name for unit in graph.units] == ["prelude", *blocks, "head"]
    assert [unit.output_bytes for unit in graph.units] == [32 * 4] * 4 + [0]
    products = 2 * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 48)
    assert graph.units[1].flops == pytest.approx(products, rel=0.05)
    assert graph.units[4].flops == 2 * 32 * 509
    assert (graph.input_bytes, graph.result_bytes) == (8, 8)
    assert graph.vocabulary == Vocabulary(CONTEXT, 509, ())
    assert graph.units[4].weight_bytes == (509 + 1) * 32 * 4


def vocabulary_of(folder: Path, context: int = 2048) -> Vocabulary:
    return read_vocabulary(folder, read_config(folder), Generation(context=context))


@pytest.mark.parametrize(
    ("stored", "ends"),
    [({"eos_token_id": 7}, (7,)), ({"eos_token_id": [9, 7, 9]}, (7, 9)), ({}, ())],
)
def test_the_vocabulary_a_door_must_know(copied: Path, stored: dict[str, Any], ends: Any) -> None:
    (copied / "generation_config.json").write_text(json.dumps(stored))
    assert vocabulary_of(copied) == Vocabulary(CONTEXT, 509, ends)
    assert vocabulary_of(copied, 100) == Vocabulary(100, 509, ends)


def test_without_a_generation_configuration_the_models_own_end_counts(copied: Path) -> None:
    (copied / "generation_config.json").unlink()
    changed(copied, "config.json", eos_token_id=2)
    assert vocabulary_of(copied).ends == (2,)
    (copied / "generation_config.json").write_text("[")
    with pytest.raises(CheckpointError, match=r"generation_config\.json is not readable JSON"):
        vocabulary_of(copied)


def test_what_changes_a_text_changes_the_digest(copied: Path) -> None:
    before = graph_of(copied).digest
    assert graph_of(copied).digest == before
    (copied / "chat_template.jinja").write_text("{{ messages }}")
    told = graph_of(copied).digest
    changed(copied, "generation_config.json", eos_token_id=3)
    assert len({before, told, graph_of(copied).digest}) == 3


def test_models_that_warn_of_padding_are_asked_nothing(copied: Path) -> None:
    """They would look at token ids, which later units have not."""
    changed(copied, "config.json", pad_token_id=5)
    assert graph_of(copied).vocabulary.size == 509


def save(folder: Path, class_name: str, **changes: Any) -> ModelSpec:
    cls = getattr(transformers, class_name)
    cls(cls.config_class(**changes)).save_pretrained(folder)
    return ModelSpec(path=str(folder))


SMALL = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
         "intermediate_size": 16}  # fmt: skip


@pytest.mark.parametrize(
    ("class_name", "changes", "reason"),
    [
        ("BertModel", SMALL, "BertModel generates no text by itself"),
        (
            "T5ForConditionalGeneration",
            {"vocab_size": 64, "d_model": 16, "num_layers": 2, "num_heads": 2, "d_kv": 8},
            "generates no text by itself",
        ),
        (
            "MambaForCausalLM",
            {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4},
            "keeps no keys and values",
        ),
        (
            "Qwen3NextForCausalLM",
            SMALL | {"num_hidden_layers": 4, "num_key_value_heads": 1, "head_dim": 8,
                     "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16,
                     "shared_expert_intermediate_size": 16, "linear_num_value_heads": 2,
                     "linear_num_key_heads": 2, "linear_key_head_dim": 8,
                     "linear_value_head_dim": 8},
            "keeps a state besides keys and values",
        ),
    ],
)  # fmt: skip
def test_models_without_sessions_are_refused(
    class_name: str, changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    spec = save(tmp_path, class_name, **changes)
    with pytest.raises(SplitError, match=reason):
        TorchFactory().open(spec, Generation())


def test_what_has_no_meaning_for_a_generation_is_refused(folder: Any) -> None:
    path = str(folder("llama"))
    with pytest.raises(ConfigError, match=r"model\.task"):
        TorchFactory().open(ModelSpec(path=path, task="next-token"), Generation())
    with pytest.raises(ConfigError, match="answers in one pass"):
        TorchFactory().open(ModelSpec(tier="sequential", factory="a:b"), Generation())
    with pytest.raises(ConfigError, match=r"model\.path is missing"):
        TorchFactory().open(ModelSpec(), Generation())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(folder: Any, dtype: str) -> None:
    spec = ModelSpec(path=str(folder("llama")), dtype=dtype)
    engine = TorchFactory().open(spec, Generation(context=64))
    engine.load(engine.graph.whole)
    assert engine.warm_up(engine.graph.whole) > 0
    assert engine.graph.units[1].state_bytes == 2 * 2 * 8 * 2
    assert engine._sessions.layout[0].dtype == getattr(torch, dtype)
