"""Trains the decoder from the shipped text and says how good it became.

    python -m examples.decoder.train --out build/decoder      at most half an hour on two free cores
    python -m examples.decoder.train --quick                  another, tiny one, in seconds

The same seed gives the same model, on the same machine with as many threads. What is done is kept
in the folder every 100 steps; a run that was interrupted goes on from there.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import torch

from examples.decoder import report, score, text
from examples.decoder.checkpoint import Decoder
from examples.decoder.tokenizer import encode, train_tokenizer
from examples.decoder.training import QUICK, THREADS, Recipe, Run

PROGRESS: Final = "progress.pt"
_KEPT_EVERY: Final = 100  # steps
_QUICK_SECTIONS: Final = 40


def train(
    recipe: Recipe, sections: Sequence[str], out: Path, say: Callable[[str], None]
) -> list[float]:
    """Writes the checkpoint to `out`. Returns the loss of each batch of this run, in nats a token.

    Raises ValueError where the text is too short or `out` holds the progress of another recipe.
    """
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(sections, recipe.vocabulary, recipe.context)
    tokens = encode(tokenizer, sections)
    run = Run.start(recipe, len(tokenizer), tokenizer.eos_token_id)
    progress = out / PROGRESS
    if progress.exists():
        run.load(progress)
        say(f"goes on after step {run.step} of {progress}")
    say(f"{len(tokens):,} tokens of {len(score.as_bytes(sections)) / len(tokens):.2f} bytes")
    losses: list[float] = []
    began = time.perf_counter(), time.process_time()

    def after_step(step: int, loss: float) -> None:
        losses.append(loss)
        if step % _KEPT_EVERY == 0 or step == recipe.steps:
            run.save(progress)
            latest = losses[-_KEPT_EVERY:]
            say(
                f"step {step:5}/{recipe.steps}  loss {sum(latest) / len(latest):.3f}  "
                f"{time.perf_counter() - began[0]:.0f} s, "
                f"{time.process_time() - began[1]:.0f} s of CPU"
            )

    run.train(tokens, after_step)
    Decoder(run.model, tokenizer).save(out)
    progress.unlink()
    return losses


def main() -> int:
    parser = argparse.ArgumentParser(description="Trains the small decoder of the examples.")
    parser.add_argument("--out", type=Path, default=Path("build/decoder"), help="its folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--quick", action="store_true", help="a tiny model of little text")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    training, _ = text.split(text.read_pages())
    recipe = dataclasses.replace(QUICK if options.quick else Recipe(), seed=options.seed)
    sections = training[:_QUICK_SECTIONS] if options.quick else training
    try:
        train(recipe, sections, options.out, lambda line: print(line, flush=True))
    except (OSError, ValueError) as error:
        sys.exit(f"{error}")
    print(report.measure(options.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
