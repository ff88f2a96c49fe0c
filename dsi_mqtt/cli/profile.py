"""`dsi-mqtt profile`: what each unit of a model takes on this machine."""

from __future__ import annotations

import json as json_module
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table as RichTable

from dsi_mqtt.cli.common import size, waiting
from dsi_mqtt.cli.run_record import run_record
from dsi_mqtt.core.deployment import Deployment, Kind
from dsi_mqtt.core.model import ModelSpec
from dsi_mqtt.core.profiled import ModelProfile, UnitTimes
from dsi_mqtt.engine.base import Engine
from dsi_mqtt.engine.profiling import profile_batches, profile_generation
from dsi_mqtt.engine.select import TierFactory
from dsi_mqtt.errors import ConfigError, InvalidInputError, one_sentence
from dsi_mqtt.wire.files import read_site
from dsi_mqtt.wire.profiles import CODEC
from dsi_mqtt.worker.engines import opened

_ROW: Final = '"The bridge over the river is closed after the storm, take the road by the mill."'
_WIDE: Final = 400
_COUNT_MAX: Final = 4096


def profile(
    model: Annotated[Path, typer.Argument(help="A checkpoint folder, or a deployment file.")],
    out: Annotated[Path | None, typer.Option("--out", help="Write the profile there.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads to compute with.")] = 1,
    batch: Annotated[
        str, typer.Option(help="Rows of a batch; for a generation, sessions of a step.")
    ] = "1,2,4,8",
    tokens: Annotated[str, typer.Option(help="Tokens of a prompt.")] = "16,64,256",
    row: Annotated[
        str, typer.Option("--input", help="One row of an input, as JSON, where it is no text.")
    ] = _ROW,
    generation: Annotated[
        bool, typer.Option("--generation", help="The folder's model is to generate text.")
    ] = False,
) -> None:
    """Measure what each unit of a model takes on this machine.

    One is loaded at a time. A nodes file names what is written: `compute: {profile: city.json}`.
    """
    batches, lengths = _counts(batch, "--batch"), _counts(tokens, "--tokens")
    deployment = _deployment(model, generation=generation)
    _check_room(deployment, lengths)
    record = run_record("profile")
    with waiting(Console(stderr=True), f"{model}: opening the model", plain=True) as say:
        engine = opened(deployment, TierFactory(threads))
        count = len(engine.graph.units)

        def told(unit: int) -> None:
            say(f"{model}: measuring unit {unit}, {count} in all")

        units = _measure(engine, deployment, batches, lengths, row, told)
    memory = int(record["host"]["memory_bytes"])
    found = ModelProfile(engine.graph.digest, deployment.kind, units, threads, memory)
    if out is not None:
        _write(out, found, record)
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDE)  # in a file no line is cut
    console.print(_table(found))
    console.print("times in ms, the median of several passes", highlight=False)


def _deployment(path: Path, *, generation: bool) -> Deployment:
    if path.is_dir():
        kind: Kind = "generation" if generation else "one-pass"
        return Deployment("profile", ModelSpec(path=str(path.resolve())), kind)
    deployments, _ = read_site(path)
    if len(deployments) > 1:
        raise ConfigError(f"{path.name}: holds {len(deployments)} deployments; give one alone")
    sys.path.insert(0, str(path.parent.resolve()))  # where `up` looks for a factory, too
    return deployments[0]


def _check_room(deployment: Deployment, lengths: tuple[int, ...]) -> None:
    """It is measured as it is deployed, for a longer context would be another model."""
    context = deployment.limits.context
    if deployment.kind == "generation" and max(lengths) >= context:
        raise ConfigError(
            f"--tokens: {max(lengths)} leave no room in a context of {context} "
            "(generation.context); give fewer"
        )


def _measure(
    engine: Engine,
    deployment: Deployment,
    batches: tuple[int, ...],
    lengths: tuple[int, ...],
    row: str,
    say: Callable[[int], None],
) -> tuple[UnitTimes, ...]:
    clock = time.perf_counter
    if deployment.kind == "generation":
        return profile_generation(engine, batches, lengths, clock, say)
    try:
        return profile_batches(engine, batches, row, clock, say)
    except InvalidInputError as error:
        raise ConfigError(
            one_sentence(f"--input: the model does not read it ({error}); give one row as JSON")
        ) from None


def _counts(given: str, option: str) -> tuple[int, ...]:
    parts = [part.strip() for part in given.split(",")]
    if not all(part.isascii() and part.isdigit() and 0 < int(part) <= _COUNT_MAX for part in parts):
        raise ConfigError(
            f"{option}: {given!r:.60} must be whole numbers of 1 to {_COUNT_MAX}, like 1,2,4"
        )
    return tuple(sorted({int(part) for part in parts}))


def _write(path: Path, found: ModelProfile, record: dict[str, object]) -> None:
    """Read back, so that whoever plans with it later is not who finds out."""
    text = json_module.dumps({**asdict(found), **record}, indent=1)
    CODEC.decode(text.encode())
    try:
        path.write_text(text + "\n", "utf-8")
    except OSError as error:
        raise ConfigError(f"--out: {path} cannot be written: {error.strerror}") from None


def _table(found: ModelProfile) -> RichTable:
    shown = RichTable(box=None, pad_edge=False)
    first = found.units[0]
    columns = [
        (name, key)
        for name, times in (
            ("batch", first.batch_ms),
            ("prompt", first.prefill_ms),
            ("step", first.decode_ms),
        )
        for key in times
    ]
    for name in ("unit", "name", "weights", "output"):
        shown.add_column(name, no_wrap=True)
    if found.kind == "generation":
        shown.add_column("KV a token", no_wrap=True)
    for name, key in columns:
        shown.add_column(f"{name} {key}", no_wrap=True, justify="right")
    for i, unit in enumerate(found.units):
        times = {"batch": unit.batch_ms, "prompt": unit.prefill_ms, "step": unit.decode_ms}
        cells = [str(i), unit.name, size(unit.weight_bytes), size(unit.output_bytes)]
        cells += [size(unit.state_bytes)] if found.kind == "generation" else []
        shown.add_row(*cells, *(f"{times[name][key]:.2f}" for name, key in columns))
    return shown
