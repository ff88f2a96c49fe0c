"""What `bench decode` compares with: plain transformers, `generate`, one thread.

    python -m dsi_mqtt.cli.bench_decode_plain write FOLDER CONFIG SEED
    python -m dsi_mqtt.cli.bench_decode_plain generate FOLDER < asks > answers

`write` makes the checkpoint: a Llama of CONFIG (JSON) with weights drawn from SEED, and a tokenizer
with a word for each id. `generate` reads an ask a line, `{"prompt": [ids], "new_tokens": 64}`, and
answers each with `{"tokens": [ids], "times_s": […]}`: when each token was told to a streamer,
from the first on. It says "ready" once the model is loaded.

Like `demo_reference` it shares nothing with what it judges; that is why it may import torch.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.generation.streamers import BaseStreamer
from transformers.utils.logging import disable_progress_bar

from dsi_mqtt.cli.child import end_with_parent

READY: Final = "ready"


class Times(BaseStreamer):
    """When each new token came. `generate` tells the prompt first."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._prompt_told = False

    def put(self, value: torch.Tensor) -> None:
        del value
        if self._prompt_told:
            self.seconds.append(time.perf_counter())
        self._prompt_told = True

    def end(self) -> None:
        """Nothing is held back."""


def write(folder: Path, config: dict[str, Any], seed: int) -> None:
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**config))
    model.save_pretrained(folder)
    words = {f"w{token}": token for token in range(model.config.vocab_size)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w0"))  # noqa: S106 - a token of a vocabulary
    tokenizer.pre_tokenizer = WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer)  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    wrapped.save_pretrained(folder)


def generate(model: Any, ask: dict[str, Any]) -> dict[str, Any]:  # noqa: ANN401 - transformers'
    """Greedy, with the library's own cache."""
    prompt = torch.tensor([ask["prompt"]])
    times = Times()
    with torch.inference_mode():
        made = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=ask["new_tokens"],
            do_sample=False,
            use_cache=True,
            streamer=times,
        )
    first, *others = times.seconds
    return {
        "tokens": made[0, prompt.shape[1] :].tolist(),
        "times_s": [0.0, *(second - first for second in others)],
    }


def answer(folder: Path) -> None:
    """Answers what is asked on standard input until that ends."""
    model: Any = LlamaForCausalLM.from_pretrained(
        folder, local_files_only=True, dtype=torch.float32
    )
    model.eval()
    print(READY, flush=True)
    for line in sys.stdin:
        print(json.dumps(generate(model, json.loads(line))), flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    end_with_parent()
    parser = argparse.ArgumentParser(prog="bench_decode_plain", description="Plain transformers.")
    roles = parser.add_subparsers(dest="role", required=True)
    writing = roles.add_parser("write", help="make the checkpoint")
    writing.add_argument("folder", type=Path)
    writing.add_argument("config", type=json.loads)
    writing.add_argument("seed", type=int)
    roles.add_parser("generate", help="answer prompts").add_argument("folder", type=Path)
    given = parser.parse_args(arguments)
    # Standard error is for the one sentence that matters.
    disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    torch.set_num_threads(1)
    if given.role == "write":
        write(given.folder, given.config, given.seed)
    else:
        answer(given.folder)


if __name__ == "__main__":
    main()
