"""A session's state as bytes, to be continued by another engine: safetensors, never pickled.

One tensor for the keys and one for the values of a layer, named `unit@first.layer.keys`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from safetensors import SafetensorError
from safetensors.torch import load, save

from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.engine.torch.sessions import Part, Sessions
from dsi_mqtt.errors import ModelFailedError, SessionStaleError, WireError

if TYPE_CHECKING:
    import torch

_NAME: Final = re.compile(r"(\d{1,6})@(\d{1,9})\.\d{1,6}\.(?:keys|values)", re.ASCII)


def exported(sessions: Sessions, session: str, units: UnitRange, first: int, last: int) -> bytes:
    """Positions `[first, last)` of `units`. Raises ModelFailedError where not all are held."""
    tensors = {}
    for unit in sessions.keeping(units):
        held = sessions.length(session, unit)
        if not 0 <= first <= last <= held:
            raise ModelFailedError(
                f"session {session}: unit {unit} holds {held} positions, not {first}:{last}"
            )
        if first == last:
            continue
        for layer in sessions.layers(unit):
            keys, values = sessions.get(session, layer, first, last)
            tensors[f"{unit}@{first}.{layer}.keys"] = keys.contiguous()
            tensors[f"{unit}@{first}.{layer}.values"] = values.contiguous()
    return bytes(save(tensors))


def imported(sessions: Sessions, session: str, blob: bytes | memoryview) -> None:
    """Puts a state behind what is held; what is held already stays.

    Raises WireError or SessionStaleError, and then nothing is kept.
    """
    try:
        tensors = load(bytes(blob))
        placed = _placed(sessions, session, tensors)
    except (SafetensorError, ValueError, KeyError) as error:
        raise WireError(f"session {session}: the state is not readable: {error}") from error
    for (unit, first), parts in placed.items():
        count = next(iter(parts.values()))[0].shape[2]
        if sessions.length(session, unit) < first + count:
            sessions.put(session, unit, first, parts)


def _placed(
    sessions: Sessions, session: str, tensors: dict[str, torch.Tensor]
) -> dict[tuple[int, int], dict[int, Part]]:
    """By unit and first position, the parts by layer."""
    placed: dict[tuple[int, int], dict[int, Part]] = {}
    expected: set[str] = set()
    for name in tensors:
        match = _NAME.fullmatch(name)
        if match is None:
            raise ValueError(f"no unit is called {name:.40}")
        unit, first = int(match[1]), int(match[2])
        if (unit, first) in placed or not sessions.keeping(UnitRange(unit, unit + 1)):
            continue
        parts = placed[unit, first] = {}
        for layer in sessions.layers(unit):
            names = f"{unit}@{first}.{layer}.keys", f"{unit}@{first}.{layer}.values"
            parts[layer] = tensors[names[0]], tensors[names[1]]
            expected.update(names)
        sessions.fit(first, parts)
        held = sessions.length(session, unit)
        if held < first:
            raise SessionStaleError({session: held})
    if expected != tensors.keys():
        raise ValueError(f"it holds {min(tensors.keys() - expected):.40}, which no layer keeps")
    return placed
