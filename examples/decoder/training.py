"""Training the decoder: a small Llama in plain PyTorch, the same run from the same seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

THREADS: Final = 2


@dataclass(frozen=True, slots=True)
class Stage:
    """Batches of one shape: `steps` times (windows, length) tokens."""

    steps: int
    windows: int
    length: int


@dataclass(frozen=True, slots=True)
class Recipe:
    """A model and how it is trained.

    stages: short windows first. Most of what there is to learn stands close together, and short
      windows cost less; the last ones are as long as the context.
    rate: the highest learning rate; it rises along a line for `warmup` steps and falls along half
      a cosine until the last one.
    """

    vocabulary: int = 2048
    width: int = 128
    layers: int = 4
    heads: int = 4
    key_value_heads: int = 2
    inner: int = 352
    context: int = 512
    stages: tuple[Stage, ...] = (Stage(2000, 8, 128), Stage(200, 8, 256), Stage(500, 4, 512))
    warmup: int = 100
    rate: float = 3e-3
    decay: float = 0.1
    seed: int = 0

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)


QUICK: Final = Recipe(
    vocabulary=320,
    width=32,
    layers=2,
    heads=2,
    key_value_heads=1,
    inner=64,
    context=128,
    stages=(Stage(30, 8, 32), Stage(10, 2, 128)),
    warmup=5,
    rate=1e-2,
)


@dataclass(slots=True)
class Run:
    """A model in training: what must be kept to go on later as if nothing had been."""

    recipe: Recipe
    model: Any  # a LlamaForCausalLM, whose methods are untyped
    optimizer: torch.optim.AdamW
    step: int = 0

    @classmethod
    def start(cls, recipe: Recipe, vocabulary: int, end: int) -> Run:
        """vocabulary: how many tokens the tokenizer came to have; end: the one that ends."""
        torch.manual_seed(recipe.seed)
        model = build_model(recipe, vocabulary, end)
        matrices = [weight for weight in model.parameters() if weight.dim() > 1]
        norms = [weight for weight in model.parameters() if weight.dim() == 1]
        groups: list[dict[str, Any]] = [
            {"params": matrices},
            {"params": norms, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(
            groups, recipe.rate, betas=(0.9, 0.95), weight_decay=recipe.decay, fused=True
        )
        return cls(recipe, model, optimizer)

    def save(self, file: Path) -> None:
        state = {
            "recipe": repr(self.recipe),
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        beside = file.with_suffix(".new")
        torch.save(state, beside)
        beside.replace(file)  # whole or not at all

    def load(self, file: Path) -> None:
        """Raises ValueError where the file is of another recipe."""
        state = torch.load(file, weights_only=True)
        if state["recipe"] != repr(self.recipe):
            raise ValueError(f"{file} is of another recipe or seed; delete it or train elsewhere")
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])

    def train(self, tokens: Tensor, after_step: Callable[[int, float], None]) -> None:
        """The steps that are left. after_step: told how many are done, and the batch's loss."""
        self.model.train()
        for step, windows in enumerate(batches(self.recipe, tokens)):
            if step >= self.step:
                after_step(step + 1, self._learn(windows))

    def _learn(self, windows: Tensor) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = rate(self.recipe, self.step)
        logits = self.model(windows[:, :-1], use_cache=False).logits
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return float(loss.item())


def build_model(recipe: Recipe, vocabulary: int, end: int) -> LlamaForCausalLM:
    """A Llama with random weights, drawn from torch's own generator."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=recipe.width,
            intermediate_size=recipe.inner,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.key_value_heads,
            max_position_embeddings=recipe.context,
            tie_word_embeddings=True,
            bos_token_id=end,
            eos_token_id=end,
            pad_token_id=end,
        )
    )


def rate(recipe: Recipe, step: int) -> float:
    """The learning rate of one step: up along a line, then down along half a cosine."""
    if step < recipe.warmup:
        return recipe.rate * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.rate * (1 + math.cos(math.pi * done)) / 2


def batches(recipe: Recipe, tokens: Tensor) -> Iterator[Tensor]:
    """All batches, each (windows, length + 1): the last token of a window is only predicted."""
    random = torch.Generator().manual_seed(recipe.seed)
    for stage in recipe.stages:
        starts = _starts(stage, len(tokens), random)
        for _ in range(stage.steps):
            yield torch.stack([tokens[at : at + stage.length + 1] for at in next(starts)])


def _starts(stage: Stage, available: int, random: torch.Generator) -> Iterator[Tensor]:
    """Where a batch's windows begin: each once in random order, then all anew, cut elsewhere.

    Raises ValueError where the text is too short for one batch.
    """
    while True:
        shift = int(torch.randint(stage.length, (), generator=random))
        places = torch.arange(shift, max(shift, available - stage.length), stage.length)
        if len(places) < stage.windows:
            raise ValueError(
                f"{available} tokens are too few for {stage.windows} windows of {stage.length}; "
                "give a longer text"
            )
        shuffled = places[torch.randperm(len(places), generator=random)]
        for first in range(0, len(shuffled) - stage.windows + 1, stage.windows):
            yield shuffled[first : first + stage.windows]
