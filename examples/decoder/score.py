"""How good a decoder is: bits per byte against an n-gram model, and the words it writes."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from examples.decoder.checkpoint import Decoder
from examples.decoder.ngram import NgramModel
from examples.decoder.text import words
from examples.decoder.tokenizer import encode

# Five bytes of context, so grams of six bytes: the harder one of two usual readings of "order 5".
ORDER: Final = 5
_SECTION_END: Final = b"\0"  # one byte where the decoder has its end token

PROMPTS: Final = (
    "The database",
    "# Introduction\n",
    "If the application",
    "A transaction",
    "# How to open a file\n",
    "When the query planner",
    "The first argument",
    "Memory",
)


def as_bytes(sections: Sequence[str]) -> bytes:
    """The sections as both models have to predict them, each with its end."""
    return b"".join(section.encode() + _SECTION_END for section in sections)


def ngram_bits_per_byte(training: Sequence[str], held_out: Sequence[str]) -> float:
    model = NgramModel(as_bytes(training), ORDER)
    return float(-np.log2(model.probabilities(as_bytes(held_out))).mean())


def bits_per_byte(decoder: Decoder, sections: Sequence[str]) -> float:
    """Every token is predicted from at least half a context, but for the first ones of all."""
    tokens = encode(decoder.tokenizer, sections)
    nats = sum(
        float(_surprise(decoder, window)[-new:].sum())
        for window, new in _windows(tokens, decoder.context)
    )
    return nats / math.log(2) / len(as_bytes(sections))


def _windows(tokens: Tensor, context: int) -> Iterator[tuple[Tensor, int]]:
    """Windows that overlap by half, each with how many of its last tokens are its own."""
    stop = 1
    while stop < len(tokens):
        last, stop = stop, min(len(tokens), stop + (context if stop == 1 else context // 2))
        yield tokens[max(0, stop - context - 1) : stop], stop - last


@torch.inference_mode()
def _surprise(decoder: Decoder, window: Tensor) -> Tensor:
    """(tokens - 1,): nats, for each token after the first."""
    logits = decoder.model(window[None, :-1], use_cache=False).logits[0].float()
    return nn.functional.cross_entropy(logits, window[1:], reduction="none")


@dataclass(frozen=True, slots=True)
class Sample:
    """A prompt and what the decoder made of it.

    ended: with the end token, not at the limit.
    """

    prompt: str
    text: str
    ended: bool

    @property
    def words(self) -> list[str]:
        """The words it wrote; one that the prompt began counts, one that the limit cut off not."""
        return words(self.prompt + self.text, len(self.prompt), cut_off=not self.ended)


def greedy(decoder: Decoder, prompt: str, tokens: int) -> list[int]:
    """The likeliest tokens after the prompt, until the end or so many."""
    (written,) = _continue(decoder, prompt, tokens, {"do_sample": False})
    return written


def sample(decoder: Decoder, prompt: str, seed: int, many: int, tokens: int) -> list[Sample]:
    """`many` texts of at most `tokens` tokens, drawn at temperature 0.8 from all that may come."""
    torch.manual_seed(seed)
    choice = {"do_sample": True, "temperature": 0.8, "top_k": 0, "num_return_sequences": many}
    samples = []
    for row in _continue(decoder, prompt, tokens, choice):
        ended = decoder.end in row
        kept = row[: row.index(decoder.end)] if ended else row
        samples.append(Sample(prompt, str(decoder.tokenizer.decode(kept)), ended))
    return samples


def _continue(
    decoder: Decoder, prompt: str, tokens: int, choice: Mapping[str, object]
) -> list[list[int]]:
    inputs = decoder.tokenizer(prompt, return_tensors="pt")
    with torch.inference_mode():
        written = decoder.model.generate(**inputs, max_new_tokens=tokens, **choice)
    return [row[inputs["input_ids"].shape[1] :].tolist() for row in written]


def known_share(samples: Sequence[Sample], known: Collection[str]) -> tuple[int, float]:
    """How many words the samples have, and the share of them that is known."""
    written = [word for each in samples for word in each.words]
    return len(written), sum(word in known for word in written) / max(1, len(written))
