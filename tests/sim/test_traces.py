"""Traces: gaps are held, equal times averaged, and what is wrong is named with its line."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from dsi_mqtt.errors import ConfigError
from dsi_mqtt.sim.traces import SYNTHETIC, Trace, made_up, read_folder, read_trace

HEAD = "time_s,rate_mbit_s,rtt_ms,network"


def written(folder: Path, *rows: str, head: str = HEAD) -> Path:
    path = folder / "way.csv"
    path.write_text("\n".join([head, *rows]) + "\n", "utf-8")
    return path


def test_a_gap_is_held_and_equal_times_are_averaged(tmp_path: Path) -> None:
    path = written(tmp_path, "5,10,20,5G", "6,1,30,5G", "6,3,50,LTE", "9,7,10,LTE")
    found = read_trace(path)
    assert found == Trace((10.0, 2.0, 2.0, 2.0, 7.0), (20.0, 40.0, 40.0, 40.0, 10.0))
    assert (found.rows, found.gaps_filled) == (4, 2)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (["0,1,2,5G", "1,fast,2,5G"], "way.csv line 3: rate_mbit_s is 'fast'; give a number"),
        (["0,1,2,5G", "1,-1,2,5G"], "way.csv line 3: rate_mbit_s is '-1'; give a number of 0 or"),
        (["0,1,nan,5G"], "way.csv line 2: rtt_ms is 'nan'; give a number of 0 or more"),
        (["0,1"], "way.csv line 2: rtt_ms is None; give a number"),
        (["0,1,2," + "5" * 200_000], "way.csv line 2: is no CSV: field larger than field limit"),
        (["1,1,2,5G", "0,1,2,5G"], "way.csv line 3: time_s 0 is before that of the line above"),
        ([], "way.csv: holds no row below its header"),
        (["0,0,2,5G"], "way.csv: its rates are all 0; nothing could ever be sent"),
        (["0,1,2,5G", "1e9,1,2,5G"], "way.csv: is 1000000001 s long; 604800 s are the most"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, rows: list[str], told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read_trace(written(tmp_path, *rows))
    assert str(raised.value).startswith(told)


def test_a_column_that_is_missing_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, "0,1", head="time_s,rtt_ms")
    with pytest.raises(ConfigError, match=r"way\.csv: its first line lacks the column rate_mbit_s"):
        read_trace(path)


def test_a_folder_is_its_traces_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no trace"):
        read_folder(tmp_path)
    written(tmp_path, "0,1,2,5G")
    assert read_folder(tmp_path) == {"way": Trace((1.0,), (2.0,))}
    with pytest.raises(ConfigError, match="no such file"):
        read_trace(tmp_path / "none.csv")


@pytest.mark.parametrize("kind", SYNTHETIC)
def test_what_is_made_up_is_made_of_its_seed(kind: str) -> None:
    made = made_up(kind, Random(3))
    assert made == made_up(kind, Random(3)) != made_up(kind, Random(4))
    assert len(made) == len(made.rtts) == 600
    assert min(made.rates) > 0
