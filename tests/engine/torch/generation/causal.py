"""Small decoder-only models, what transformers generates with them, and chains of engines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import transformers

from dsi_mqtt.core.activation import TOKENS, Row, Tensor, Tensors
from dsi_mqtt.core.deployment import Generation
from dsi_mqtt.core.generation import Sampling
from dsi_mqtt.core.model import ModelSpec, UnitRange
from dsi_mqtt.engine.torch import GenerationEngine, TorchFactory

CONTEXT: Final = 640
# Of the answers of one session alone, and of eight together.
ALONE_TOKENS: Final = 64
TOGETHER_TOKENS: Final = 12
# Of the prompts; windows are 16.
LENGTHS: Final = (1, 3, 14, 17, 40, 130, 257, 500)
GREEDY: Final = Sampling(temperature=0.0)
PIECE: Final = 256

BASE: Final[dict[str, Any]] = {
    "vocab_size": 509,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": None,
}
GPT: Final = {"vocab_size": 509, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": CONTEXT,
              "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": None}  # fmt: skip
MIXED: Final = {
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "sliding_window": 16,
}
EIGHT: Final = {"head_dim": 8}

# By name: the class, and what its configuration differs in from the default.
KINDS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "llama": ("LlamaForCausalLM", BASE),
    "qwen2": ("Qwen2ForCausalLM", BASE),
    "qwen3": ("Qwen3ForCausalLM", {**BASE, **EIGHT}),
    "mistral": ("MistralForCausalLM", {**BASE, "sliding_window": 16}),
    "gemma2": ("Gemma2ForCausalLM", {**BASE, **EIGHT, **MIXED}),
    "gemma3": ("Gemma3ForCausalLM", {**BASE, **EIGHT, **MIXED}),
    "gpt2": ("GPT2LMHeadModel", GPT),
    "phi": ("PhiForCausalLM", {**BASE, "num_key_value_heads": 4}),
    "mixtral": ("MixtralForCausalLM", {**BASE, "num_local_experts": 4}),
    "qwen3-moe": (
        "Qwen3MoeForCausalLM",
        {**BASE, **EIGHT, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    ),
    "falcon": (
        "FalconForCausalLM",
        {"vocab_size": 509, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
         "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": None},
    ),
    "bloom": (
        "BloomForCausalLM",
        {"vocab_size": 509, "hidden_size": 32, "n_layer": 3, "n_head": 4,
         "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": None},
    ),
}  # fmt: skip
# Whose weights make a lively answer: many different tokens, none of them chosen by a hair.
SEEDS: Final = dict.fromkeys(KINDS, 0) | {"phi": 2, "falcon": 2, "bloom": 11}


def lively_model(name: str, seed: int) -> Any:
    """A model of that kind with random weights, large enough that what it says depends on all."""
    class_name, changes = KINDS[name]
    cls = getattr(transformers, class_name)
    model = cls(cls.config_class(**changes)).eval()
    random = torch.Generator().manual_seed(seed)
    for key, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        value = torch.randn(tensor.shape, generator=random)
        if tensor.dim() == 1:
            tensor.add_(value * 0.1)
        elif "emb" in key or "wte" in key or "wpe" in key:
            tensor.copy_(value)
        else:
            tensor.copy_(value * 2.0 * tensor.shape[-1] ** -0.5)
    model.generation_config.pad_token_id = 0
    return model


def opened(folder: Path) -> GenerationEngine:
    return TorchFactory().open(ModelSpec(path=str(folder)), Generation(context=CONTEXT))


def beside(engine: GenerationEngine) -> GenerationEngine:
    """Another engine over the same module."""
    layout, text, verify = engine._sessions.layout, engine._text, engine._verify
    graph, model, manner = engine.graph, engine._model, engine._manner
    return GenerationEngine(graph, model, manner, layout, text=text, verify=verify)


@dataclass(frozen=True)
class Told:
    """What transformers generates for a prompt. logits: (tokens, vocabulary)."""

    prompt: list[int]
    tokens: list[int]
    logits: torch.Tensor


def generate(model: Any, prompts: Sequence[list[int]], count: int) -> list[Told]:
    """By `generate`, greedily, as one padded batch. count: of new tokens."""
    longest = max(map(len, prompts))
    padding = [longest - len(prompt) for prompt in prompts]
    made = model.generate(
        torch.tensor([[0] * pad + prompt for pad, prompt in zip(padding, prompts, strict=True)]),
        attention_mask=(torch.arange(longest) >= torch.tensor(padding)[:, None]).long(),
        max_new_tokens=count,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    logits = torch.stack(made.logits, dim=1)
    tokens = made.sequences[:, longest:].tolist()
    return [Told(prompt, *rest) for prompt, *rest in zip(prompts, tokens, logits, strict=True)]


def prompts(seed: int = 0) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [random.integers(3, 509, length).tolist() for length in LENGTHS]


def ids_of(tokens: Sequence[Sequence[int]]) -> Tensors:
    given = np.array(tokens, "<i8")
    return (Tensor(TOKENS, "int64", given.shape, given.tobytes()),)


class Chain:
    """Segments one after the other, each an engine with sessions of its own.

    apart: whether each also has a module of its own, that holds nothing else. Following the flow
    through a module is what takes the time of opening one.
    """

    def __init__(self, folder: Path, *cuts: int, apart: bool = False) -> None:
        self.parts: list[tuple[GenerationEngine, UnitRange]] = []
        ranges = [UnitRange(start, stop) for start, stop in pairwise((0, *cuts, 5))]
        whole = opened(folder)
        for units in ranges:
            engine = opened(folder) if apart else beside(whole)
            engine.load(units)
            self.parts.append((engine, units))

    def logits(self, rows: Sequence[Row], tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        tensors = ids_of(tokens)
        for engine, units in self.parts[:-1]:
            tensors = engine.forward(units, tuple(rows), tensors)
        engine, units = self.parts[-1]
        return engine.logits(units, tuple(rows), tensors)

    def step(
        self,
        rows: Sequence[Row],
        tokens: Sequence[Sequence[int]],
        sampling: Sampling | None = GREEDY,
    ) -> list[int]:
        """What the head draws for each row."""
        tensors = ids_of(tokens)
        for engine, units in self.parts:
            how = (sampling,) * len(rows)
            tensors = engine.forward(units, tuple(rows), tensors, sampling=how)
        return [int(token) for token in np.frombuffer(tensors[0].data, "<i8")]

    def prefill(self, session: str, tokens: list[int], piece: int = PIECE) -> torch.Tensor:
        """In pieces; the logits of the last position."""
        for first in range(0, len(tokens), piece):
            part = tokens[first : first + piece]
            logits = self.logits([Row(session, first, len(part))], [part])
        return logits[0]

    def close(self, *sessions: str) -> None:
        for engine, _ in self.parts:
            for session in sessions:
                engine.close(session)
