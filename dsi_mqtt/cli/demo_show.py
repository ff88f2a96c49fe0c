"""What a person sees of the demo, and what a program reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from dsi_mqtt.cli.demo_outcome import Answers, Befallen, Outcome
from dsi_mqtt.core.site import SiteNode
from dsi_mqtt.core.sizes import MIB
from dsi_mqtt.core.table import Table

SCHEMA: Final = "dsi.demo/1"
SHOWN_ANSWERS: Final = 5
_TEXT_WIDTH: Final = 100


def show_chain(table: Table, nodes: Sequence[SiteNode], console: Console) -> None:
    """Which part of the model runs where."""
    caps = {node.id: node.memory_mib for node in nodes}
    zones = {node.id: node.zone for node in nodes}
    shown = RichTable("segment", "units", "gateway", "zone", "weight budget", box=None)
    for segment in table.segments:
        node = segment.replicas[0].node
        cap = caps[node]
        budget = "none" if cap is None else f"{cap:g} MiB"
        shown.add_row(segment.id, str(segment.units), node, zones[node], budget)
    units = table.model.units if table.model else 0
    count = len(table.segments)
    console.print(
        f"\nMiniLM's {units} units run as {count} segment{'s' if count > 1 else ''}, "
        f"as planned by the orchestrator (epoch {table.epoch}):"
    )
    console.print(shown)
    console.print()


def show_outcome(outcome: Outcome, console: Console) -> None:
    _show_answers(outcome, console)
    answers = outcome.answers
    shown = RichTable("segment", "units", "gateway", "pid", "weights", "peak memory", "requests")
    shown.box = None
    for row in _placement(outcome):
        shown.add_row(
            row["segment"],
            f"{row['units'][0]}:{row['units'][1]}",
            row["node"],
            str(row["pid"]),
            f"{row['weight_bytes'] / MIB:.1f} MiB",
            f"{row['peak_rss_bytes'] / MIB:.0f} MiB",
            str(row["requests"]),
        )
    console.print(shown)
    latency = _latency(outcome)
    error = outcome.max_abs_error
    console.print(
        f"\n{outcome.inputs} inputs, {len(answers.embeddings)} results, "
        f"{len(answers.errors)} errors, {answers.lost} lost; "
        f"latency p50 {latency['p50']:.1f} ms, p95 {latency['p95']:.1f} ms"
    )
    if error is not None:
        console.print(
            f"{outcome.compared} compared with the unsplit model: largest difference {error:.1e}"
        )
    for fault in outcome.faults:
        console.print(_told(fault, answers))
    for sentence in answers.errors[:3]:
        console.print(f"[red]{sentence}[/red]")
    verdict = "[green]all as it should be[/green]" if outcome.holds else "[red]not as claimed[/red]"
    console.print(f"{verdict}, in {outcome.duration_s:.0f} s")


def _told(fault: Befallen, answers: Answers) -> str:
    """One fault and what followed, in a sentence."""
    done = "killed" if fault.fault == "worker_kill" else "throttled the link of"
    what = f"{done} {fault.node} after {fault.at_input} answers: "
    if fault.recovered_at is None:
        return f"{what}nobody had taken over when the last input was answered"
    pause_s = _pause_ms(fault, answers) / 1000
    return (
        f"{what}{' and '.join(fault.heirs) or 'nobody'} took over within "
        f"{fault.recovered_at - fault.at:.1f} s, meanwhile never more than {pause_s:.1f} s "
        "between two answers"
    )


def _pause_ms(fault: Befallen, answers: Answers) -> float:
    """The longest time between two results from the fault until it was recovered from."""
    until = math.inf if fault.recovered_at is None else fault.recovered_at
    return answers.pause_between_ms(fault.at, until)


def _fault(fault: Befallen, outcome: Outcome) -> dict[str, Any]:
    """Times in seconds: at_s since the first input, the others since the fault. decision, kind,
    reason: what the orchestrator decided first; null: nothing by the end of the run.
    """

    def since(at: float | None) -> float | None:
        return None if at is None else round(at - fault.at, 3)

    return {
        "fault": fault.fault,
        "node": fault.node,
        "at_input": fault.at_input,
        "at_s": round(fault.at - outcome.began, 3),
        "left_mbit_s": fault.left_mbit_s,
        "decision": fault.decision,
        "kind": fault.kind,
        "reason": fault.reason,
        "epoch": None if fault.after is None else fault.after.epoch,
        "heirs": list(fault.heirs),
        "table_s": since(fault.served_at),
        "recovery_s": since(fault.recovered_at),
        "pause_ms": round(_pause_ms(fault, outcome.answers), 1),
    }


def _show_answers(outcome: Outcome, console: Console) -> None:
    if not outcome.matches:
        console.print()
        return
    right = 0
    for report, match in zip(outcome.reports, outcome.matches, strict=True):
        right += outcome.hazards[match.hazard].id == report.hazard
    console.print("\nSome answers:")
    step = max(1, len(outcome.reports) // SHOWN_ANSWERS)
    for i in range(0, step * SHOWN_ANSWERS, step):
        report, match = outcome.reports[i], outcome.matches[i]
        hazard = outcome.hazards[match.hazard]
        text = _shortened(report.text, min(_TEXT_WIDTH, console.width - 4))
        console.print(Text(f"  “{text}”"))
        told = f"{report.source}: {hazard.title} ({match.similarity:.2f}). {hazard.action}"
        console.print(Padding(Text(told), (0, 0, 0, 4)))
    share = right / len(outcome.reports)
    console.print(f"{right} of {len(outcome.reports)} as a person would say ({share:.0%})\n")


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


def _latency(outcome: Outcome) -> dict[str, float]:
    values = outcome.answers.latency_ms or [float("nan")]
    return {"p50": float(np.percentile(values, 50)), "p95": float(np.percentile(values, 95))}


def _placement(outcome: Outcome) -> list[dict[str, Any]]:
    rows = []
    for segment in outcome.table.segments:
        node = segment.replicas[0].node
        status = outcome.picture.statuses.get(node)
        telemetry = outcome.picture.telemetry.get(node)
        holdings = status.holdings if status else ()
        loads = telemetry.segments if telemetry else ()
        weight = next((h.weight_bytes for h in holdings if h.segment == segment.id), 0)
        load = next((s for s in loads if s.segment == segment.id), None)
        rows.append(
            {
                "segment": segment.id,
                "units": list(segment.units),
                "node": node,
                "zone": status.zone if status else "",
                "pid": status.pid if status else 0,
                "weight_bytes": weight,
                "peak_rss_bytes": telemetry.peak_rss_bytes if telemetry else 0,
                "requests": load.requests if load else 0,
                "bytes_out": load.bytes_out if load else 0,
            }
        )
    return rows


def outcome_document(outcome: Outcome, record: dict[str, Any]) -> dict[str, Any]:
    """`dsi.demo/1`. duplicates: results that the client's caller saw twice. repeated_answers:
    answers that came again on the topic and ended at the client, as they may after a fault.
    pause_max_ms: the longest time between two results, one after the other.
    """
    answers, table = outcome.answers, outcome.table
    results = len(answers.embeddings)
    return {
        "schema": SCHEMA,
        **record,
        "inputs": outcome.inputs,
        "results": results,
        "errors": len(answers.errors),
        "lost": answers.lost,
        "duplicates": len(answers.latency_ms) - results,
        "repeated_answers": answers.repeated,
        "resent": answers.resent,
        "compared": outcome.compared,
        "max_abs_error": outcome.max_abs_error,
        "segments": len(table.segments),
        "term": table.term,
        "epoch": table.epoch,
        "latency_ms": _latency(outcome),
        "pause_max_ms": answers.pause_ms,
        "duration_s": round(outcome.duration_s, 3),
        "broker": {
            "name": "mosquitto",
            "version": outcome.broker_version,
            "pid": outcome.broker_pid,
        },
        "placement": _placement(outcome),
        "faults": [_fault(fault, outcome) for fault in outcome.faults],
    }
