"""`dsi-mqtt bench decode`: what it prints, what it refuses, runs of a fake and of a small model."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from dsi_mqtt.cli.bench import app
from dsi_mqtt.cli.bench_decode import (
    GENERATE,
    MANY,
    ONE,
    SERIES,
    THREE,
    DecodeReport,
    Series,
    Told,
    document,
    measure,
)
from dsi_mqtt.cli.bench_decode_plan import SHAPES, DecodePlan, Shape, check_room, cut
from dsi_mqtt.cli.bench_decode_report import decode_table
from dsi_mqtt.cli.run_record import run_record
from dsi_mqtt.cli.site import running_site
from dsi_mqtt.errors import MESSAGE_MAX, ConfigError, DsiError, MachineError
from dsi_mqtt.transport.loop import run
from tests import preloaded
from tests.e2e.programs import left_over, running
from tests.preloaded import Preloaded

# Keys and types of the published schema dsi.bench.decode/1.
TOP: dict[str, type | tuple[type, ...]] = {
    "schema": str,
    "version": str,
    "command": str,
    "seed": int,
    "started_at": str,
    "host": dict,
    "shape": str,
    "params": int,
    "dtype": str,
    "threads_per_segment": int,
    "segments": int,
    "pids": list,
    "prompt_tokens": int,
    "new_tokens": int,
    "repeats": int,
    "tokens_equal": bool,
    "generate_tok_s": float,
    "single_tok_s": float,
    "chain_tok_s": float,
    "chain_sessions8_tok_s": float,
    "spread": dict,
}
RATES = ("generate_tok_s", "single_tok_s", "chain_tok_s", "chain_sessions8_tok_s")

# A fake model of six units and sixteen tokens: the shape says how it is cut and what it is asked.
FAKE = Shape("fake", layers=4, hidden=8, inner=8, heads=1, vocabulary=16)
OPTIONS = {"units": 6, "unit_ms": 1, "weight_mib": 0.01}
FAKE_PLAN = DecodePlan(FAKE, repeats=2, prompt_tokens=3, new_tokens=12)


def report(
    *, single: float = 10.0, chain: tuple[float, float] = (9.5, 9.0), many: float = 40.0
) -> DecodeReport:
    """Two repeats of one prompt; every series made the same tokens."""
    found = DecodeReport((11, 12, 13))
    rates = {GENERATE: (10.0, 10.5), ONE: (single, single), THREE: chain, MANY: (many, many)}
    for series in SERIES:
        found.rates[series] = list(rates[series])
        for _ in range(2):
            found.note(series, (0,), (Told((5, 6), (0.0, 1.0)),))
    return found


def decode(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["decode", *arguments])


def verdicts(found: DecodeReport) -> list[str]:
    return list(decode_table(DecodePlan(FAKE, 2), found).columns[-1].cells)  # type: ignore[arg-type]  # cells may be any renderable


# --- what is printed ----------------------------------------------------------------------------


def test_the_document_has_the_published_keys_and_types() -> None:
    found = document(run_record("bench decode", seed=0), DecodePlan(FAKE, 2), report())
    assert found == json.loads(json.dumps(found))
    assert all(isinstance(found.get(key, ...), kind) for key, kind in TOP.items())
    assert found.keys() == TOP.keys()
    assert found["schema"] == "dsi.bench.decode/1"
    assert (found["pids"], found["tokens_equal"]) == ([11, 12, 13], True)
    assert (found["chain_tok_s"], found["spread"]["chain_tok_s"]) == (9.25, [9.0, 9.5])
    assert tuple(found["spread"]) == RATES


@pytest.mark.parametrize(
    ("found", "chain", "many"),
    [
        (report(), "reached", "reached"),
        (report(chain=(9.5, 8.9)), "missed in one repeat or more", "reached"),
        (report(chain=(8.9, 8.9), many=26.0), "missed", "missed"),
    ],
)
def test_an_aim_is_reached_when_every_repeat_reaches_it(
    found: DecodeReport, chain: str, many: str
) -> None:
    assert verdicts(found) == [
        "",
        "",
        f"≥ 0.9 of one segment: {chain}",
        f"≥ 3 of three segments: {many}",
    ]


@pytest.mark.parametrize(
    ("series", "number", "what"),
    [
        (THREE, 0, "chain of prompt 0"),
        (MANY, 3, "chain_sessions8 of prompt 3"),  # which generate was not asked
        (GENERATE, 0, "generate of prompt 0"),  # itself says two things
    ],
)
def test_tokens_that_differ_are_named(series: Series, number: int, what: str) -> None:
    found = report()
    assert found.differing() == ()
    found.note(series, (number,), (Told((5, 7), (0.0, 1.0)),))
    assert what in found.differing()
    assert document({}, DecodePlan(FAKE, 2), found)["tokens_equal"] is False


# --- what is asked for --------------------------------------------------------------------------


def test_a_shape_that_is_none_is_named() -> None:
    error = decode("--shape", "gpt-9").exception
    assert isinstance(error, ConfigError)
    assert str(error) == "--shape: 'gpt-9' is unknown; give llama-336m, llama-20m, llama-1m"


class Usage(NamedTuple):
    free: int


class Memory(NamedTuple):
    available: int
    total: int = 0


@pytest.mark.parametrize(
    ("disk", "memory", "sentence"),
    [
        (1 << 30, 1 << 40, "--shape llama-336m needs 1.3 GiB of disk, and 1.0 are free in "),
        (1 << 40, 4 << 30, "--shape llama-336m needs 6.7 GiB of memory, and 4.0 are free here"),
    ],
)
def test_without_room_it_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, disk: int, memory: int, sentence: str
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(disk))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(memory))
    error = decode().exception
    assert isinstance(error, MachineError)
    assert str(error).startswith(sentence)
    assert len(str(error)) < MESSAGE_MAX
    check_room(DecodePlan(SHAPES["llama-20m"]), Path("/tmp/bench"))  # is smaller


def test_the_same_seed_asks_the_same() -> None:
    plan = DecodePlan(FAKE, prompt_tokens=20, seed=4)
    assert plan.prompts == replace(plan, repeats=9).prompts
    assert plan.prompts != replace(plan, seed=5).prompts
    assert {len(prompt) for prompt in plan.prompts} == {20}
    assert len(set(plan.prompts)) == 8


@given(st.lists(st.integers(0, 50), min_size=3, max_size=9))
def test_a_cut_covers_all_units_and_no_neighbour_is_cheaper(costs: list[int]) -> None:
    found = cut(tuple(costs), 3)
    stops = [0, *(units.stop for units in found)]
    assert [units.start for units in found] == stops[:-1]
    assert stops[-1] == len(costs)
    dearest = max(sum(costs[units.start : units.stop]) for units in found)
    for moved in (1, 2):
        for by in (-1, 1):
            other = [*stops[:moved], stops[moved] + by, *stops[moved + 1 :]]
            if all(a < b for a, b in pairwise(other)):
                assert max(sum(costs[a:b]) for a, b in pairwise(other)) >= dearest


# --- runs ---------------------------------------------------------------------------------------


def fork_nodes(processes: Preloaded, monkeypatch: pytest.MonkeyPatch) -> None:
    site = partial(running_site, start=processes.start)
    monkeypatch.setattr("dsi_mqtt.cli.bench_decode.running_site", site)


def fake(wrong: int = 0, progressed: Any = lambda _: None) -> Any:
    """A run of the fake model over real brokers and workers, to be awaited."""
    program = str(Path(__file__).with_name("fake_generate.py"))
    plain = (sys.executable, program, json.dumps(OPTIONS), str(wrong))
    model = {"tier": "fake", "options": OPTIONS}
    return measure(FAKE_PLAN, model, plain, say=lambda _: None, progressed=progressed)


@pytest.mark.e2e
def test_a_run_takes_turns_and_compares_every_token(monkeypatch: pytest.MonkeyPatch) -> None:
    fork_nodes(preloaded.light, monkeypatch)
    turns: list[Series] = []
    # The first ask warms up, the second is prompt 0; in the third one token is changed.
    found = run(fake(wrong=3, progressed=turns.append))
    assert turns == [*SERIES, *SERIES]
    assert found.differing() == (
        "single of prompt 1",
        "chain of prompt 1",
        "chain_sessions8 of prompt 1",
    )
    # Of all eight prompts, from all who were asked them, all of their tokens.
    assert found.told[MANY].keys() == found.told[GENERATE].keys() == set(range(8))
    assert {len(tokens) for told in found.told[MANY].values() for tokens in told} == {12}
    assert all(rate > 0 for rates in found.rates.values() for rate in rates)
    assert len(set(found.pids)) == 3
    assert not any(psutil.pid_exists(pid) for pid in found.pids)


@pytest.mark.e2e
def test_a_generate_that_ends_is_told_with_its_reason() -> None:
    with pytest.raises(DsiError, match="bench decode: generate failed: out of luck"):
        run(fake(wrong=-1))


@pytest.mark.e2e
def test_when_a_worker_dies_there_are_no_figures_and_no_processes() -> None:
    def kill(_: Series) -> None:
        children = psutil.Process().children(recursive=True)
        next(child for child in children if "part-2" in child.cmdline()).kill()

    marks = ("part-", "fake_generate", "mosquitto.conf")
    before = left_over(*marks)  # brokers that other tests share
    with pytest.raises(DsiError, match="bench decode: part-2 ended with -9"):
        run(fake(progressed=kill))
    assert left_over(*marks) == before


@pytest.mark.e2e
async def test_ctrl_c_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    async with running("bench", "decode", "--shape", "llama-1m") as command:
        await command.complained("writing llama-1m")
        command.interrupt()
        assert (await command.ended()).code == 130
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - a read of one's own empty folder
    assert not left_over(str(tmp_path))


@pytest.mark.e2e
@pytest.mark.slow
def test_a_small_model_tells_the_tokens_of_plain_transformers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fork_nodes(preloaded.heavy, monkeypatch)
    small = ("--shape", "llama-1m", "--repeats", "1", "--new-tokens", "24")
    result = decode("--json", *small, "--prompt-tokens", "8")
    assert result.exit_code == 0, (result.output, result.exception)
    found = json.loads(result.stdout)
    assert found["tokens_equal"] is True
    assert found["params"] == 1_048_800
    assert all(found[rate] > 0 for rate in RATES)
    assert not list(Path(tempfile.gettempdir()).glob("dsi-bench-*/config.json"))
