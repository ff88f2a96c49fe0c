"""The shipped decoder, loaded once."""

from __future__ import annotations

import pytest
import torch
from transformers.utils import logging as transformers_logging

from examples.decoder.checkpoint import MODEL, Decoder

transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
# Small products gain nothing from more threads, and other tests run beside these.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def decoder() -> Decoder:
    return Decoder.load(MODEL)
