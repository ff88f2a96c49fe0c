"""The report of an evaluation: one page that needs nothing else, its figures, its pictures."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

from dsi_mqtt.errors import ConfigError
from dsi_mqtt.evaluate.outcome import Judged, Recording
from dsi_mqtt.evaluate.playing import Traces
from dsi_mqtt.evaluate.plots import COLORS, Picture, pictures
from dsi_mqtt.evaluate.scoring import (
    CONSTANT_P95_AIM,
    P95_AIM,
    REGRET_AIM,
    Row,
)

PAGE: Final = "report.html"
FIGURES: Final = "evaluation.json"

_STYLE: Final = """
body{font:15px/1.5 system-ui,sans-serif;color:#1d2430;max-width:1120px;
margin:2rem auto;padding:0 1rem}
h1{font-size:1.7rem;margin:0 0 .2rem}
h2{margin:2.6rem 0 .3rem;border-top:1px solid #ddd;padding-top:1.4rem}
p{max-width:78ch}small,.quiet{color:#5c6675}
table{border-collapse:collapse;margin:1rem 0;font-size:.9rem;font-variant-numeric:tabular-nums}
td,th{padding:.28rem .8rem .28rem 0;text-align:right;border-bottom:1px solid #eee}
td{white-space:nowrap}
th{font-weight:600;color:#5c6675;border-bottom:1px solid #bbb;vertical-align:bottom}
td:first-child,th:first-child{text-align:left}
tr.adaptive td{font-weight:600;background:#eef4fd}
.dot{display:inline-block;width:.7em;height:.7em;border-radius:50%;margin-right:.5em}
.yes{color:#17803d}.no{color:#b00020}
img{width:100%;height:auto;margin:.6rem 0}
"""
_INTRODUCTION: Final = (
    "<p>The orchestrator against fixed placements and oracles, on recorded links, in the "
    "simulator: the machines of doors, nodes and clients and the planner are those that serve. "
    "All policies see the same inputs, links and faults; moves, probes and decisions cost "
    "<i>adaptive</i> what they cost, and the others nothing. A violation is an input without an "
    "answer, answered with an error, or later than the target.</p>"
)
_RULES: Final = (
    "<h2>How it is judged</h2><p>Each link starts at a second of its own in a recording drawn by "
    "the seed; equal times are averaged, gaps held. <b>static-start</b>: what the orchestrator had "
    "placed when the first input came. <b>static-hindsight</b>: the best fixed placement of the "
    "run, known afterwards. <b>cloud</b>, <b>edge</b>: as much on the cloud as zones allow, and "
    "none. <b>causal-oracle</b>: the planner on the true rates and loads of 2 s ago, each second, "
    "moving for free. <b>clairvoyant</b>: the same on what is and will be in the next second. A "
    "scenario is <i>informative</i> when the best fixed placement violates at least 5 % and the "
    "clairvoyant at most a third of that (medians over seeds). Regret is (adaptive - causal) / "
    "(static-hindsight - causal) in violations, the median over seeds. Percentiles count an input "
    "without a result as one that took the deadline.</p>"
)


def write_report(
    folder: Path,
    told: dict[str, Any],
    files: Sequence[Recording],
    found: Sequence[Judged],
    traces: Traces,
) -> Path:
    """Writes the folder, and gives the page's path.

    Raises ConfigError, and MachineError where the extra is missing.
    """
    drawn = {each.scenario: pictures(each, traces) for each in found}
    page = _page(told, files, found, drawn)
    try:
        (folder / "plots").mkdir(parents=True, exist_ok=True)
        for each in drawn.values():
            for picture in each:
                (folder / "plots" / picture.name).write_bytes(picture.svg)
        (folder / FIGURES).write_text(json.dumps(told, indent=1) + "\n", "utf-8")
        path = folder / PAGE
        path.write_text(page, "utf-8")
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot be written: {error.strerror}") from None
    return path


def _page(
    told: dict[str, Any],
    files: Sequence[Recording],
    found: Sequence[Judged],
    drawn: dict[str, list[Picture]],
) -> str:
    host = told["host"]
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width,initial-scale=1'>",
        f"<title>Evaluation of dsi-mqtt</title><style>{_STYLE}</style>",
        "<h1>Does rewiring pay?</h1>",
        _INTRODUCTION,
        _quiet(
            f"dsi-mqtt {told['version']}, {told['started_at']}, {host['cpu']}, "
            f"{host['cores']} cores"
        ),
        _summary(found),
        *(_section(each, drawn[each.scenario]) for each in found),
        _recorded(files),
        _RULES,
        "</html>",
    ]
    return "\n".join(parts) + "\n"


def _summary(found: Sequence[Judged]) -> str:
    moving = [each for each in found if not each.constant]
    steady = [each for each in found if each.constant]
    parts = []
    if moving:
        parts.append(
            _table(
                (
                    "scenario",
                    "informative",
                    "best fixed violates",
                    "adaptive",
                    "causal oracle",
                    "clairvoyant",
                    f"regret (aim {REGRET_AIM:.2f})",
                    f"p95 over causal (aim {P95_AIM:.2f})",
                ),
                [
                    (
                        escape(each.scenario),
                        "yes" if each.verdict.informative else "no",
                        *(
                            _share(each.row(name))
                            for name in (
                                "static-hindsight",
                                "adaptive",
                                "causal-oracle",
                                "clairvoyant",
                            )
                        ),
                        _aimed(each.verdict.regret, REGRET_AIM, aim=each.verdict.informative),
                        _aimed(each.verdict.p95_over_causal, P95_AIM, aim=each.verdict.informative),
                    )
                    for each in moving
                ],
            )
        )
    if steady:
        parts.append(
            _table(
                (
                    "constant links",
                    "adaptive moves after 30 s (aim 0)",
                    f"p95 over static-start (aim {CONSTANT_P95_AIM:.2f})",
                    "p95 over the best fixed one",
                ),
                [
                    (
                        escape(each.scenario),
                        _aimed(each.verdict.late_moves, 0, aim=True),
                        _aimed(each.verdict.p95_over_start, CONSTANT_P95_AIM, aim=True, digits=3),
                        _aimed(each.verdict.p95_over_best, CONSTANT_P95_AIM, aim=False, digits=3),
                    )
                    for each in steady
                ],
            )
        )
    return "".join(parts)


def _section(each: Judged, drawn: Iterable[Picture]) -> str:
    recuts = each.verdict.recuts
    told = [
        f"{each.seeds_told} of {each.duration_s:.0f} s, {each.requests:,} inputs in all",
        f"target {each.target.latency_s * 1e3:.0f} ms",
        f"an error after {each.target.deadline_s * 1e3:.0f} ms",
        *([] if recuts is None else [f"the clairvoyant re-cuts {recuts:.0f} times a run"]),
    ]
    lines = [
        f"<h2>{escape(each.scenario)}</h2><p>{escape(each.about)}</p>",
        _quiet("; ".join(told) + "."),
        _policies(each),
    ]
    best = each.seeds[0].get("static-hindsight")
    if best is not None:
        lines.append(_quiet(f"The best fixed placement of seed 1: {best.placement}."))
    for picture in drawn:
        data = base64.b64encode(picture.svg).decode()
        lines.append(f"<img alt='{escape(picture.title)}' src='data:image/svg+xml;base64,{data}'>")
    if not each.constant:
        lines.append(
            "<p><small>Top: seed 1. Violet: a link at 5 to 10 % of its rate; yellow: a load spike; "
            "red: a node is gone. Triangles and diamonds: what adaptive decided. Crosses: inputs "
            "without a result, at the deadline.</small></p>"
        )
    return "\n".join(lines)


def _policies(each: Judged) -> str:
    return _table(
        (
            "policy",
            "answered",
            "failed",
            "p50",
            "p95",
            "p99",
            "violations",
            "remap",
            "resplit",
            "MB",
            "control MB",
            "EUR",
            "decision p50 / p95",
        ),
        [
            (
                f"<span class=dot style='background:{COLORS[row.policy]}'></span>{row.policy}",
                f"{row.answered:,}",
                f"{row.failed:,}",
                f"{row.p50_ms:,.0f} ms",
                f"{row.p95_ms:,.0f} ms",
                f"{row.p99_ms:,.0f} ms",
                f"{row.violations:,} ({row.violation_share:.1%})",
                f"{row.moves['remap']:,}",
                f"{row.moves['resplit']:,}",
                f"{row.bytes / 1e6:,.0f}",
                f"{row.control_bytes / 1e6:,.1f}",
                f"{row.cost:.2f}",
                f"{row.decision_ms['p50']:.1f} / {row.decision_ms['p95']:.1f} ms"
                if row.decision_ms
                else "",
            )
            for row in each.rows
        ],
        classes=[row.policy for row in each.rows],
    )


def _recorded(files: Iterable[Recording]) -> str:
    rows = [
        (
            escape(each.file),
            f"{each.rows:,}",
            f"{each.gaps_filled:,}",
            f"<small><code>{each.sha256}</code></small>",
        )
        for each in files
    ]
    return "<h2>The recorded links</h2>" + _table(("file", "rows", "gaps, s", "sha256"), rows)


def _quiet(text: str) -> str:
    return f"<p class=quiet>{escape(text)}</p>"


def _share(row: Row | None) -> str:
    return "" if row is None else f"{row.violation_share:.1%}"


def _aimed(value: float | None, most: float, *, aim: bool, digits: int = 2) -> str:
    """With a mark where there is an aim."""
    if value is None:
        return "-"
    told = f"{value:d}" if isinstance(value, int) else f"{value:.{digits}f}"
    if not aim:
        return told
    return (
        f"<span class=yes>{told} ✓</span>" if value <= most else f"<span class=no>{told} ✗</span>"
    )


def _table(
    head: Sequence[str], rows: Iterable[Sequence[str]], classes: Sequence[str] | None = None
) -> str:
    """Cells are HTML."""
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines = []
    for i, row in enumerate(rows):
        kind = f" class='{classes[i]}'" if classes else ""
        lines.append(f"<tr{kind}>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>")
    return f"<table><tr>{top}</tr>{''.join(lines)}</table>"
