"""Where a model's folder is on this machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dsi_mqtt.core.model import ModelSpec
from dsi_mqtt.errors import CheckpointError, one_sentence


def found_here(model: ModelSpec, folder: Path | None, field: str = "model.path") -> ModelSpec:
    """The model with its path as it is on this machine: as told, or under its name in `folder`.

    Told before an engine is imported, which takes long. Raises CheckpointError, which names
    `field`, where it is neither here nor there.
    """
    if model.path is None or Path(model.path).exists():
        return model
    missing = f"{field}: {model.path} does not exist on this machine"
    if folder is None:
        advice = "copy it there, or start the worker with --models"
        raise CheckpointError(one_sentence(f"{missing}; {advice}"))
    here = folder / Path(model.path).name
    if here.exists():
        return replace(model, path=str(here))
    nor = "" if here == Path(model.path) else f", nor does {here}"
    raise CheckpointError(one_sentence(f"{missing}{nor}; copy it there, or name another folder"))
