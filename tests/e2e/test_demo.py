"""The demo, with its real model: it holds what it claims, and its object is as contracted."""

from __future__ import annotations

import json
import re
from functools import partial
from itertools import pairwise
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

from dsi_mqtt.cli.program import app
from dsi_mqtt.cli.site import running_site
from tests import preloaded
from tests.e2e.programs import COMMAND, PATIENCE_S, in_terminal, run_program

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

MIB = 1024 * 1024
Shape = dict[str, type | tuple[type, ...]]
SHAPE: Shape = {
    "schema": str, "version": str, "command": str, "seed": (int, type(None)), "started_at": str,
    "host": dict, "inputs": int, "results": int, "errors": int, "lost": int, "duplicates": int,
    "compared": int, "max_abs_error": float, "segments": int, "term": int, "epoch": int,
    "latency_ms": dict, "duration_s": float, "broker": dict, "placement": list, "faults": list,
}  # fmt: skip
SEGMENT: Shape = {
    "segment": str, "units": list, "node": str, "zone": str, "pid": int, "weight_bytes": int,
    "peak_rss_bytes": int, "requests": int, "bytes_out": int,
}  # fmt: skip
HOST: Shape = {"cpu": str, "cores": int, "memory_bytes": int, "python": str, "torch": str}


# Measured 0.844 (243 of 288): the reports that only hint are meant to be hard for this model.
# The floor leaves room for another torch build to flip near ties, not for a broken pipeline.
ACCURACY_FLOOR = 0.82


async def demo(*arguments: str) -> tuple[dict[str, Any], str]:
    """Its one object, and what it showed, once it has ended well and without a traceback."""
    ended = await run_program(*COMMAND, "demo", "--json", *arguments, patience_s=5 * PATIENCE_S)
    assert ended.code == 0, ended
    assert "Traceback" not in ended.err
    assert max(len(line.rstrip()) for line in ended.err.splitlines()) <= 80
    document: dict[str, Any] = json.loads(ended.out)
    return document, ended.err


def check_shape(part: dict[str, Any], shape: Shape) -> None:
    assert not {name for name, kind in shape.items() if not isinstance(part[name], kind)}, part


def check_contract(document: dict[str, Any]) -> None:
    """Names and types of `dsi.demo/1`, and that what it claims holds."""
    assert document["schema"] == "dsi.demo/1"
    check_shape(document, SHAPE)
    check_shape(document["host"], HOST)
    for row in document["placement"]:
        check_shape(row, SEGMENT)
    assert document["latency_ms"].keys() == {"p50", "p95"}
    assert 0 < document["latency_ms"]["p50"] <= document["latency_ms"]["p95"]
    assert document["broker"].keys() == {"name", "version", "pid"}
    assert document["broker"]["name"] == "mosquitto"
    assert document["errors"] == document["lost"] == document["duplicates"] == 0
    assert document["results"] == document["compared"] == document["inputs"]
    assert document["max_abs_error"] <= 1e-5
    assert document["segments"] == len(document["placement"])
    assert [row["segment"] for row in document["placement"]] == [
        f"s{number}" for number in range(document["segments"])
    ]
    bounds = [row["units"] for row in document["placement"]]
    assert bounds[0][0] == 0
    assert bounds[-1][1] == 8
    assert all(one[1] == two[0] for one, two in pairwise(bounds))
    for row in document["placement"]:
        assert row["peak_rss_bytes"] <= row["weight_bytes"] + 450 * MIB


FAULT: Shape = {
    "fault": str, "node": str, "at_input": int, "at_s": float, "decision": str, "kind": str,
    "reason": str, "epoch": int, "heirs": list, "table_s": float, "recovery_s": float,
    "pause_ms": float,
}  # fmt: skip


def check_faults(document: dict[str, Any], shown: str) -> None:
    """Both came, were decided upon, and were told of as they came."""
    throttled, killed = document["faults"]
    for fault in (throttled, killed):
        check_shape(fault, FAULT)
        assert fault["kind"] in ("remap", "resplit")
        assert fault["node"] not in fault["heirs"]
        assert fault["recovery_s"] >= fault["table_s"] >= 0
        assert f"epoch {fault['epoch']} serves" in shown
    assert (throttled["fault"], throttled["left_mbit_s"]) == ("link_throttle", 1.0)
    assert (killed["fault"], killed["node"]) == ("worker_kill", "city")
    assert killed["heirs"] == ["city-spare"]
    assert throttled["epoch"] < killed["epoch"] <= document["epoch"]
    assert throttled["at_s"] + throttled["recovery_s"] <= killed["at_s"]
    assert f"the link of {throttled['node']} falls from 20 to 1 Mbit/s" in shown
    assert "kill -9 of city" in shown
    assert shown.count("results come from the new chain") == 2
    assert not {throttled["node"], "city"} & {row["node"] for row in document["placement"]}


async def test_the_demo_splits_the_model_in_three_and_outlives_faults() -> None:
    document, shown = await demo()
    check_contract(document)
    assert document["inputs"] == 396
    found = re.search(r"(\d+) of 288 as a person would say", shown)
    assert found is not None
    assert int(found[1]) >= ACCURACY_FLOOR * 288
    assert document["segments"] == 3
    assert document["placement"][0]["zone"] == "city"
    check_faults(document, shown)
    pids = {document["broker"]["pid"], *(row["pid"] for row in document["placement"])}
    assert not pids & set(psutil.pids())


def test_undisturbed_all_inputs_pass_the_same_three_gateways(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Run within the test's process, the nodes forked from one that has torch."""
    site = partial(running_site, start=preloaded.heavy.start)
    monkeypatch.setattr("dsi_mqtt.cli.demo_run.running_site", site)
    ended = CliRunner().invoke(app, ["demo", "--json", "--calm", "--inputs", "30"])
    assert ended.exit_code == 0, ended.output
    document = json.loads(ended.stdout)
    check_contract(document)
    assert document["inputs"] == 30
    assert document["faults"] == []
    assert len({row["pid"] for row in document["placement"]}) == 3
    weights = [round(row["weight_bytes"] / MIB, 1) for row in document["placement"]]
    assert weights == [59.0, 13.5, 14.1]
    assert {row["requests"] for row in document["placement"]} == {30}


async def test_ctrl_c_ends_it_and_all_that_it_started() -> None:
    async with in_terminal("demo", "--inputs", "8") as terminal:
        await terminal.shows("starting the gateways")
        children = psutil.Process(terminal.pid).children(recursive=True)
        assert len(children) == 8  # two brokers, an orchestrator, five nodes
        terminal.type("\x03")
        assert await terminal.ended() == 130
    assert "Traceback" not in terminal.shown
    assert not [child for child in children if child.is_running()]
