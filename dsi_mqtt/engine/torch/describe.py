"""A split model as the planner sees it."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from dsi_mqtt.core.model import ModelGraph, Tie, Tier, Unit
from dsi_mqtt.engine.digest import file_digest
from dsi_mqtt.engine.torch.crossing import crossing_bytes
from dsi_mqtt.engine.torch.holding import Holding
from dsi_mqtt.engine.torch.requests import Request
from dsi_mqtt.engine.torch.split import SplitModel


def describe(
    model: SplitModel, reference: Request, *, tier: Tier, digest: str, result_bytes: int
) -> ModelGraph:
    structure, holding = model.structure, model.holding
    last = len(structure.needs) - 1
    units = []
    for unit, needs in enumerate(structure.needs):
        stream = structure.streams[unit]
        crossing = 0 if stream is None else crossing_bytes(stream, reference, structure.carried)
        name = structure.blocks[unit - 1] if 0 < unit < last else "head" if unit else "prelude"
        units.append(Unit(name, holding.nbytes(needs), structure.flops[unit], crossing))
    asked = sum(value.nbytes for value in reference.inputs.values())
    return ModelGraph(
        digest, tier, tuple(units), ties(structure.needs, holding), asked, result_bytes
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
