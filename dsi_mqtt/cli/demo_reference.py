"""The demo's undisturbed reference: the whole model in one process, as its authors meant it.

    python -m dsi_mqtt.cli.demo_reference MODEL_FOLDER embeddings.npy < texts.jsonl

An oracle is worth something only when it shares nothing with what it judges: this process uses
plain transformers, no broker and none of this project's engines. It is therefore the single
exception to the rule that only `dsi_mqtt.engine.torch` imports torch, and nothing imports it:
the demo starts it as a command.

Each input line is a JSON string or an object with a "text". Texts are embedded one at a time:
mean of the last hidden state over the attention mask, then L2 normalisation, in float32.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize
from transformers import AutoModel, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from dsi_mqtt.errors import CheckpointError, ConfigError, DsiError


def read_texts(lines: Iterable[str]) -> list[str]:
    """The texts of a JSONL stream; empty lines are passed over. Raises ConfigError."""
    texts = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise ConfigError(f"line {number} of the texts is not JSON: {error}") from None
        text = value.get("text") if isinstance(value, dict) else value
        if not isinstance(text, str):
            raise ConfigError(
                f'line {number} of the texts must be a JSON string or an object with a "text"'
            )
        texts.append(text)
    if not texts:
        raise ConfigError("no texts: give one JSON string or object a line on standard input")
    return texts


def embed(
    folder: Path, texts: Sequence[str], done: Callable[[int], None] = lambda _: None
) -> NDArray[np.float32]:
    """The embeddings of `texts`, [n, hidden size], in their order. done: told how many there are.

    Raises CheckpointError when transformers cannot load the folder.
    """
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} has no config.json; give the folder of a checkpoint")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} is not a checkpoint transformers can load: {error}") from (
            error
        )
    model.eval()
    rows = []
    with torch.inference_mode():
        for text in texts:
            inputs = tokenizer(text, truncation=True, return_tensors="pt")
            hidden = model(**inputs).last_hidden_state
            mask = inputs["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
            rows.append(normalize(mean, dim=1).numpy())
            done(len(rows))
    embeddings: NDArray[np.float32] = np.concatenate(rows)
    return embeddings


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m dsi_mqtt.cli.demo_reference",
        description="Embeds the texts on standard input (JSONL) with plain transformers.",
    )
    parser.add_argument("folder", type=Path, help="checkpoint folder of a sentence encoder")
    parser.add_argument("out", type=Path, help="where to write the .npy, float32 [n, hidden size]")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
    parser.add_argument("--count", action="store_true", help="print how many are done")
    options = parser.parse_args(arguments)
    if options.threads < 1:
        parser.error("--threads must be at least 1")
    # Standard error is for the one sentence that matters.
    disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(mode=True)
    try:
        texts = read_texts(sys.stdin)
        done = (lambda count: print(count, flush=True)) if options.count else lambda _: None
        embeddings = embed(options.folder, texts, done)
        _save(options.out, embeddings)
    except DsiError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _save(path: Path, embeddings: NDArray[np.float32]) -> None:
    try:
        with path.open("wb") as file:  # np.save would append .npy to another name
            np.save(file, embeddings)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}; choose another path") from error


if __name__ == "__main__":
    sys.exit(main())
