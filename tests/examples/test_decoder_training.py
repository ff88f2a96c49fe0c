"""Training the decoder: it learns, and the same seed gives the same model, interrupted or not."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from examples.decoder.checkpoint import Decoder
from examples.decoder.score import bits_per_byte
from examples.decoder.text import read_pages, split
from examples.decoder.train import PROGRESS, train
from examples.decoder.training import QUICK, Recipe, Run, Stage, batches, rate

TEXT = split(read_pages())[0][:20]


def quiet(_line: str) -> None: ...


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(Decoder.load(folder).model.state_dict())


def same(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quick")
    train(QUICK, TEXT, folder, quiet)
    return folder


def test_the_loss_falls(tmp_path: Path) -> None:
    losses = train(QUICK, TEXT, tmp_path, quiet)
    assert len(losses) == QUICK.steps
    assert losses[0] == pytest.approx(math.log(QUICK.vocabulary), rel=0.05)  # knows nothing yet
    assert sum(losses[-5:]) / 5 < 0.8 * losses[0]


def test_the_checkpoint_is_as_good_as_the_last_loss(quick: Path) -> None:
    assert bits_per_byte(Decoder.load(quick), TEXT) < 5
    assert not (quick / PROGRESS).exists()


def test_the_same_seed_gives_the_same_model(quick: Path, tmp_path: Path) -> None:
    train(QUICK, TEXT, tmp_path / "again", quiet)
    assert same(quick, tmp_path / "again")
    train(dataclasses.replace(QUICK, seed=1), TEXT, tmp_path / "other", quiet)
    assert not same(quick, tmp_path / "other")


class StoppedError(Exception):
    """Ends a training in the middle."""


def test_an_interrupted_run_goes_on_as_if_nothing_had_been(quick: Path, tmp_path: Path) -> None:
    said: list[str] = []

    def interrupt(line: str) -> None:
        said.append(line)
        if line.startswith("step"):
            raise StoppedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("examples.decoder.train._KEPT_EVERY", 7)
        with pytest.raises(StoppedError):
            train(QUICK, TEXT, tmp_path, interrupt)
    left = train(QUICK, TEXT, tmp_path, said.append)
    assert len(left) == QUICK.steps - 7
    assert any("after step 7" in line for line in said)
    assert same(quick, tmp_path)


def test_progress_of_another_recipe_is_refused(tmp_path: Path) -> None:
    other = dataclasses.replace(QUICK, seed=5)
    Run.start(other, 320, 0).save(tmp_path / PROGRESS)
    with pytest.raises(ValueError, match="another recipe"):
        train(QUICK, TEXT, tmp_path, quiet)


def test_too_short_a_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="too few"):
        train(QUICK, ["# A\nfew words"], tmp_path, quiet)


def test_every_window_is_learned_once_before_any_is_learned_again() -> None:
    recipe = dataclasses.replace(QUICK, stages=(Stage(8, 4, 10), Stage(2, 3, 20)))
    found = list(batches(recipe, torch.arange(170)))  # 16 or 17 windows: four batches a time
    assert [tuple(batch.shape) for batch in found] == [(4, 11)] * 8 + [(3, 21)] * 2
    for first in (0, 4):
        starts = torch.cat([batch[:, 0] for batch in found[first : first + 4]]).tolist()
        assert len(set(starts)) == 16
        assert len({start % 10 for start in starts}) == 1
    assert all(torch.equal(batch.diff(dim=1), torch.ones_like(batch[:, 1:])) for batch in found)


def test_the_rate_rises_and_falls() -> None:
    recipe = Recipe()
    rates = [rate(recipe, step) for step in range(recipe.steps)]
    assert max(rates) == rates[recipe.warmup] == recipe.rate
    assert rates[: recipe.warmup] == sorted(rates[: recipe.warmup])
    assert rates[recipe.warmup :] == sorted(rates[recipe.warmup :], reverse=True)
    assert 0 < rates[-1] < recipe.rate / 1000


def test_the_last_windows_are_as_long_as_the_context() -> None:
    for recipe in (Recipe(), QUICK):
        assert recipe.stages[-1].length == recipe.context
