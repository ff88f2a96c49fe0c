"""The decoder as a folder that transformers, and so dsi-mqtt, loads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

MODEL: Final = Path(__file__).with_name("model")


@dataclass(frozen=True, slots=True)
class Decoder:
    """A model with its tokenizer."""

    model: Any  # a LlamaForCausalLM, whose methods are untyped
    tokenizer: PreTrainedTokenizerFast

    @property
    def context(self) -> int:
        """How many tokens the model may see."""
        return int(self.model.config.max_position_embeddings)

    @property
    def end(self) -> int:
        """The token that ends a text."""
        return int(self.tokenizer.eos_token_id)

    def save(self, folder: Path) -> None:
        """Stored in float16, half the bytes; computed with in float32, as `config.json` says."""
        weights = dict(self.model.named_parameters())  # tied ones once
        halves = {name: weight.detach().to(torch.float16) for name, weight in weights.items()}
        self.model.save_pretrained(folder, state_dict=halves)
        self.tokenizer.save_pretrained(folder)

    @classmethod
    def load(cls, folder: Path) -> Decoder:
        model: Any = LlamaForCausalLM.from_pretrained(folder, local_files_only=True)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        return cls(model.eval(), tokenizer)


def size(folder: Path) -> int:
    """Bytes of all its files."""
    return sum(file.stat().st_size for file in folder.iterdir())
