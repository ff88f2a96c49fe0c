"""A split model as the planner sees it."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch

from dsi_mqtt.core.model import ModelGraph, Tie, Tier, Unit, Vocabulary
from dsi_mqtt.engine.digest import file_digest
from dsi_mqtt.engine.torch.crossing import crossing_bytes
from dsi_mqtt.engine.torch.holding import Holding
from dsi_mqtt.engine.torch.requests import Request
from dsi_mqtt.engine.torch.sessions import Layout
from dsi_mqtt.engine.torch.split import SplitModel


def describe(
    model: SplitModel, reference: Request, *, tier: Tier, digest: str, result_bytes: int
) -> ModelGraph:
    structure = model.structure
    crossing = [
        0 if stream is None else crossing_bytes(stream, reference, structure.carried)
        for stream in structure.streams
    ]
    units = _units(model, crossing, [0] * len(crossing))
    asked = sum(value.nbytes for value in reference.inputs.values())
    return ModelGraph(
        digest, tier, units, ties(model.structure.needs, model.holding), asked, result_bytes
    )


def describe_generation(
    model: SplitModel, layout: Layout, vocabulary: Vocabulary, digest: str
) -> ModelGraph:
    """For a reference row of one token."""
    streams = model.structure.streams
    crossing = [0 if stream is None else stream.nbytes for stream in streams]
    kept = [0] * len(streams)
    for slot in layout.values():
        kept[slot.unit] += slot.nbytes
    token = torch.int64.itemsize
    units = _units(model, crossing, kept)
    return ModelGraph(
        digest, "layer", units, ties(model.structure.needs, model.holding), token, token, vocabulary
    )


def _units(model: SplitModel, crossing: list[int], kept: list[int]) -> tuple[Unit, ...]:
    """crossing, kept: by unit, bytes of a reference row's activation and of a position's state."""
    structure, holding = model.structure, model.holding
    names = ("prelude", *structure.blocks, "head")
    return tuple(
        Unit(name, holding.nbytes(needs), flops, *rest)
        for name, needs, flops, *rest in zip(
            names, structure.needs, structure.flops, crossing, kept, strict=True
        )
    )


def ties(needs: Sequence[frozenset[str]], holding: Holding) -> tuple[Tie, ...]:
    """Weights that several units compute with, added up by the units."""
    users: defaultdict[str, set[int]] = defaultdict(set)
    for unit, names in enumerate(needs):
        for name in names:
            users[holding.one_name(name)].add(unit)
    shared: defaultdict[tuple[int, ...], set[str]] = defaultdict(set)
    for name, units in users.items():
        if len(units) > 1:
            shared[tuple(sorted(units))].add(name)
    return tuple(Tie(units, holding.nbytes(names)) for units, names in sorted(shared.items()))


def digest_of(parts: dict[str, str]) -> str:
    """`sha256:…` over named parts, in the order of their names."""
    told = hashlib.sha256()
    for name in sorted(parts):
        told.update(f"{name}={parts[name]}\n".encode())
    return f"sha256:{told.hexdigest()}"


def file_parts(folder: Path, names: tuple[str, ...]) -> dict[str, str]:
    """The digests of those of the files that exist."""
    return {name: file_digest(folder / name) for name in names if (folder / name).is_file()}
