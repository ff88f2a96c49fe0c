"""The fault suite itself: a standing system, faults, rows that pass."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dsi_mqtt.chaos.journal import Journal
from dsi_mqtt.chaos.outcome import row_document
from dsi_mqtt.chaos.trials import TRIALS
from dsi_mqtt.cli.chaos_run import ChaosPlan, run_chaos
from tests.e2e.programs import left_over

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

FAULTS = {("worker_kill", "middle"), ("data_broker_kill", "broker")}


async def test_faults_cost_no_input_and_no_token(tmp_path: Path) -> None:
    trials = tuple(trial for trial in TRIALS if (trial.fault, trial.target) in FAULTS)
    said: list[str] = []
    log = tmp_path / "chaos.jsonl"
    with log.open("w") as lines:
        plan = ChaosPlan(trials, 10.0, 7, tmp_path, {})
        rows, broken = await run_chaos(plan, Journal(lines, said.append))
    told = [row_document(row) for row in rows]
    assert broken == [], said
    assert [row["passed"] for row in told] == [True] * 4, (told, said)
    assert all(row["injections"] and row["results"] == row["inputs"] for row in told)
    assert all(row["deliveries"] >= row["inputs"] for row in told)
    killed = [row for row in told if row["fault"] == "worker_kill"]
    assert all(row["recovery_s"]["p50"] > 0 for row in killed)
    events = [json.loads(line)["event"] for line in log.read_text().splitlines()]
    assert {"trial", "injected", "table", "recovery", "outcome", "answer"} <= set(events)
    assert not left_over(str(tmp_path))
