"""Says how good a decoder is, by default the shipped one.

python -m examples.decoder.report [--model FOLDER]
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from examples.decoder import checkpoint, score, text

_SEEDS: Final = (1, 2, 3)
_MANY: Final = 4  # texts per prompt and seed
_TOKENS: Final = 64
_SHOWN: Final = 4


@dataclass(frozen=True, slots=True)
class Report:
    """What a decoder is measured by.

    size: bytes of its folder. words: how many it wrote; known: the share that the text has.
    """

    parameters: int
    size: int
    bits_per_byte: float
    ngram_bits_per_byte: float
    words: int
    known: float
    samples: tuple[score.Sample, ...]

    def __str__(self) -> str:
        lines = (
            f"parameters               {self.parameters:,}",
            f"bytes of the folder      {self.size:,}",
            f"bits per held-out byte   {self.bits_per_byte:.3f}",
            f"  of an order-{score.ORDER} n-gram   {self.ngram_bits_per_byte:.3f}",
            f"words sampled            {self.words:,}",
            f"  that the text has      {self.known:.2%}",
            "",
            *(_shown(sample) for sample in self.samples[::_MANY][:_SHOWN]),
        )
        return "\n".join(lines)


def _shown(sample: score.Sample) -> str:
    written = (
        f"[{sample.prompt.rstrip()}]" + sample.prompt[len(sample.prompt.rstrip()) :] + sample.text
    )
    lines = (
        textwrap.fill(line, 96, initial_indent="  ", subsequent_indent="  ")
        for line in written.split("\n")
    )
    return "\n".join(lines) + ("" if sample.ended else " …") + "\n"


def measure(folder: Path) -> Report:
    torch.set_num_threads(1)  # one token at a time leaves a second one nothing to do but wait
    decoder = checkpoint.Decoder.load(folder)
    training, held_out = text.split(text.read_pages())
    samples = tuple(
        each
        for seed in _SEEDS
        for prompt in score.PROMPTS
        for each in score.sample(decoder, prompt, seed, _MANY, _TOKENS)
    )
    many, known = score.known_share(samples, text.vocabulary(training + held_out))
    return Report(
        parameters=sum(weight.numel() for weight in decoder.model.parameters()),
        size=checkpoint.size(folder),
        bits_per_byte=score.bits_per_byte(decoder, held_out),
        ngram_bits_per_byte=score.ngram_bits_per_byte(training, held_out),
        words=many,
        known=known,
        samples=samples,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Says how good a decoder is.")
    parser.add_argument("--model", type=Path, default=checkpoint.MODEL, help="its folder")
    options = parser.parse_args()
    if not (options.model / "config.json").is_file():
        sys.exit(f"{options.model} holds no model; name the folder that train.py wrote (--out)")
    print(measure(options.model))
    return 0


if __name__ == "__main__":
    sys.exit(main())
