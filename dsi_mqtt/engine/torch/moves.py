"""A session's state as bytes, to be continued by another engine: safetensors, never pickled.

One tensor for the keys and one for the values of a layer, named `unit@first.layer.keys`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from safetensors import SafetensorError
from safetensors.torch import load, save

from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.engine.torch.sessions import Part, Sessions
from dsi_mqtt.errors import ModelFailedError, SessionStaleError, WireError

if TYPE_CHECKING:
    import torch

_OF_LAYER: Final = ("keys", "values")


def exported(sessions: Sessions, session: str, units: UnitRange, first: int, last: int) -> bytes:
    """Positions `[first, last)` of `units`. Raises ModelFailedError where not all are held."""
    tensors: dict[str, torch.Tensor] = {}
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
            names = _names(unit, first, layer)
            tensors.update(zip(names, (keys.contiguous(), values.contiguous()), strict=True))
    return bytes(save(tensors))


def imported(  # noqa: PLR0917 - as the engine's own
    sessions: Sessions,
    session: str,
    units: UnitRange,
    first: int,
    last: int,
    blob: bytes | memoryview,
) -> None:
    """Puts positions `[first, last)` of `units` behind what is held; what is held already stays.

    Raises WireError or SessionStaleError, and then nothing is kept.
    """
    try:
        placed = _placed(sessions, units, first, last, load(bytes(blob)))
    except (SafetensorError, ValueError, KeyError) as error:
        raise WireError(f"session {session}: the state is not readable: {error}") from error
    held = {unit: sessions.length(session, unit) for unit in placed}
    if min(held.values(), default=first) < first:
        raise SessionStaleError({session: min(held.values())})
    for unit, parts in placed.items():
        if held[unit] < last:
            sessions.put(session, unit, first, parts)


def _placed(
    sessions: Sessions, units: UnitRange, first: int, last: int, tensors: dict[str, torch.Tensor]
) -> dict[int, dict[int, Part]]:
    """By unit, the parts by layer. Raises ValueError or KeyError where they are anything else."""
    placed: dict[int, dict[int, Part]] = {}
    expected: set[str] = set()
    for unit in sessions.keeping(units):
        parts = placed[unit] = {}
        for layer in sessions.layers(unit):
            keys, values = names = _names(unit, first, layer)
            parts[layer] = tensors[keys], tensors[values]
            expected.update(names)
        sessions.fit(first, last, parts)
    if expected != tensors.keys():
        raise ValueError(f"it holds {min(tensors.keys() - expected):.40}, which is not asked for")
    return placed


def _names(unit: int, first: int, layer: int) -> tuple[str, str]:
    keys, values = (f"{unit}@{first}.{layer}.{what}" for what in _OF_LAYER)
    return keys, values
