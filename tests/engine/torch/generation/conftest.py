"""Models of a kind, made once: on disk, as transformers runs them, and in three segments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.utils import logging as transformers_logging

from tests.engine.torch.generation.causal import (
    ALONE_TOKENS,
    LENGTHS,
    SEEDS,
    TOGETHER_TOKENS,
    Chain,
    Told,
    generate,
    lively_model,
    prompts,
)

transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
# Small products gain nothing from more threads, and other tests run beside these.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A checkpoint folder of a kind. Do not change it."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            lively_model(name, SEEDS[name]).save_pretrained(made[name])
        return made[name]

    return make


@pytest.fixture(scope="session")
def told(folder: Callable[[str], Path]) -> Callable[[str], tuple[list[Told], Told]]:
    """What transformers generates with a kind: for a prompt of each of `LENGTHS`, and for one."""
    made: dict[str, tuple[list[Told], Told]] = {}

    def make(name: str) -> tuple[list[Told], Told]:
        if name not in made:
            auto: Any = transformers.AutoModelForCausalLM
            model = auto.from_pretrained(folder(name)).eval()
            asked = prompts()
            (alone,) = generate(model, asked[LENGTHS.index(17) :][:1], ALONE_TOKENS)
            made[name] = generate(model, asked, TOGETHER_TOKENS), alone
        return made[name]

    return make


@pytest.fixture(scope="session")
def chain(folder: Callable[[str], Path]) -> Callable[[str], Chain]:
    """Three segments of a kind. Close the sessions that you begin."""
    made: dict[str, Chain] = {}

    def make(name: str) -> Chain:
        if name not in made:
            made[name] = Chain(folder(name), 2, 3)
        return made[name]

    return make
