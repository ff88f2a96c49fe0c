"""Whether the segments of a model compute what the whole does: tried, not believed.

A tiny model of the same kind with random weights runs whole, by its plain forward, and as chains
of segments that hold nothing but their own units and hand on what would cross the wire: at every
single cut, and at all cuts at once; one row, and several of different lengths. Every result must
be equal to the last bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
import transformers
from torch import nn
from torch.utils import _pytree as pytree

from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.engine.digest import recall_json, remember_json
from dsi_mqtt.engine.torch.build import build_hollow, set_tensor
from dsi_mqtt.engine.torch.crossing import pack, unpack
from dsi_mqtt.engine.torch.image import PIXELS
from dsi_mqtt.engine.torch.layer import split_layer
from dsi_mqtt.engine.torch.requests import Request
from dsi_mqtt.engine.torch.sources import BuiltSource
from dsi_mqtt.engine.torch.split import SplitModel
from dsi_mqtt.engine.torch.structure import Reference
from dsi_mqtt.engine.torch.text import IDS, MASK
from dsi_mqtt.engine.torch.tiny import IMAGE_SIDE, VOCABULARY, shrunk
from dsi_mqtt.engine.torch.trees import Tree
from dsi_mqtt.errors import SplitError

if TYPE_CHECKING:
    from transformers import PretrainedConfig
    from transformers.modeling_utils import PreTrainedModel

_VERIFIED: Final = "verified.json"
_ENTRIES_MAX: Final = 500
# Larger tiny models would cost a small gateway the memory it needs for its segment.
_ELEMENTS_MAX: Final = 6_000_000
_LENGTHS: Final = (13, 9, 5)
_SEED: Final = 20_240_607


def verify_layer(cls: type[PreTrainedModel], config: PretrainedConfig, dtype: torch.dtype) -> None:
    """Raises SplitError with the reason when segments of this kind of model are not exact.

    A kind that was found exact with these versions is remembered in the cache folder.
    """
    key = kind_key(cls.__name__, str(dtype), config.to_json_string())
    if not is_verified(key):
        _try_tiny(cls, config, dtype)
        remember_verified(key)


def is_verified(key: str) -> bool:
    return recall_json(_VERIFIED).get(key) is True


def remember_verified(key: str) -> None:
    known = dict(list(recall_json(_VERIFIED).items())[-_ENTRIES_MAX:])
    remember_json(_VERIFIED, known | {key: True})


def check_chains(whole: nn.Module, parts: SplitModel, requests: list[Request], what: str) -> None:
    """Raises SplitError where a chain of segments differs from `whole`."""
    units = len(parts.structure.needs)
    for request in requests:
        with torch.inference_mode():
            expected = _tensors(whole(**request.inputs))
        if not all(value.isfinite().all() for value in expected if value.is_floating_point()):
            raise SplitError(f"{what}: random weights give no finite result to compare")
        for cuts in _chains(units):
            result = _tensors(run_chain(parts, cuts, request))
            if len(result) != len(expected) or not all(map(torch.equal, result, expected)):
                raise SplitError(
                    f"{what}: segments {_told(cuts)} do not compute what the whole does"
                )


def run_chain(parts: SplitModel, cuts: tuple[UnitRange, ...], request: Request) -> Tree:
    """The output of the segments `cuts` one after the other, each held alone."""
    carried = parts.structure.carried
    dtypes = {name: value.dtype for name, value in request.inputs.items()}
    stream, crossing = None, request
    for units in cuts:
        parts.load(units)
        try:
            result = parts.run(units, crossing.inputs, stream)
        finally:
            parts.drop(units)
        if units is not cuts[-1]:
            stream, crossing = unpack(pack(result, crossing, carried), carried, dtypes)
    return result


def _chains(units: int) -> Iterator[tuple[UnitRange, ...]]:
    for cut in range(1, units):
        yield UnitRange(0, cut), UnitRange(cut, units)
    yield tuple(UnitRange(unit, unit + 1) for unit in range(units))


def _told(cuts: tuple[UnitRange, ...]) -> str:
    return ", ".join(map(str, cuts))


def _tensors(output: Tree) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor)]


def _try_tiny(cls: type[PreTrainedModel], config: PretrainedConfig, dtype: torch.dtype) -> None:
    reasons = []
    for tiny in shrunk(config):
        try:
            whole = random_model(cls, tiny, dtype)
            requests = _requests(cls, tiny, dtype)
            with torch.inference_mode():
                whole(**requests[0].inputs)
        except Exception as error:  # noqa: BLE001 - an invalid small configuration fails in its own way
            reasons.append(f"{type(error).__name__}: {error}")
            continue
        state = whole.state_dict()
        source = BuiltSource(lambda: state, "the tiny model")  # noqa: B023 - used within this turn
        known = frozenset({MASK} & requests[0].inputs.keys())
        reference = Reference(requests[0].inputs, known)
        parts = split_layer(cls, tiny, dtype, source, reference, origin="the tiny model")
        check_chains(whole, parts, requests, cls.__name__)
        return
    raise SplitError(
        f"{cls.__name__}: no small model of this kind runs, so its split is untested: {reasons[0]}"
    )


def random_model(
    cls: type[PreTrainedModel], config: PretrainedConfig, dtype: torch.dtype
) -> PreTrainedModel:
    """A whole model in which every weight matters: none is zero, one, or alike in two units."""
    model = build_hollow(cls, config, dtype)
    if sum(value.numel() for value in model.state_dict().values()) > _ELEMENTS_MAX:
        raise SplitError(f"the small model has more than {_ELEMENTS_MAX} weights")
    random = torch.Generator().manual_seed(_SEED)
    for name, hollow in model.state_dict(keep_vars=True).items():
        set_tensor(model, name, _random_weight(name, hollow, random))
    model.tie_weights()
    return model


def _random_weight(name: str, hollow: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Matrices keep the size of what they multiply; biases and means lie around zero.

    Other vectors lie in [0.5, 1.5), as scales and variances must.
    """
    if not hollow.is_floating_point():
        return torch.ones(hollow.shape, dtype=hollow.dtype)
    if hollow.dim() > 1:
        value = torch.randn(hollow.shape, generator=random)
        wide = "embed" not in name
        value *= hollow[0].numel() ** -0.5 if wide else 1.0
    elif name.endswith(("bias", "mean")):
        value = torch.randn(hollow.shape, generator=random) * 0.2
    else:
        value = torch.rand(hollow.shape, generator=random) + 0.5
    return value.to(hollow.dtype)


def _requests(
    cls: type[PreTrainedModel], config: PretrainedConfig, dtype: torch.dtype
) -> list[Request]:
    """One row, and three of different lengths."""
    random = torch.Generator().manual_seed(_SEED)
    if cls.main_input_name == PIXELS:
        side = getattr(config, "image_size", IMAGE_SIDE)
        height, width = (side, side) if isinstance(side, int) else side
        shape = (len(_LENGTHS), getattr(config, "num_channels", 3), height, width)
        pixels = torch.randn(shape, generator=random).to(dtype)
        return [Request({PIXELS: rows}, batched=True) for rows in (pixels[:1], pixels)]
    lengths = _lengths(config.get_text_config())
    most = min(VOCABULARY, config.get_text_config().vocab_size)
    ids = torch.randint(min(3, most - 1), most, (len(lengths), lengths[0]), generator=random)
    mask = (torch.arange(lengths[0]) < torch.tensor(lengths)[:, None]).long()
    return [
        Request({IDS: ids[:1], MASK: mask[:1]}, batched=True),
        Request({IDS: ids, MASK: mask}, batched=True),
    ]


def _lengths(config: PretrainedConfig) -> tuple[int, ...]:
    """As `_LENGTHS`, each shorter by as much as a model with few positions needs."""
    positions = getattr(config, "max_position_embeddings", None) or max(_LENGTHS) + 1
    # RoBERTa and its family number positions from behind the padding's own number on.
    first = (getattr(config, "pad_token_id", None) or 0) + 1
    room = positions - first if positions > first else positions
    over = max(0, max(_LENGTHS) - room)
    return tuple(max(1, length - over) for length in _LENGTHS)


def kind_key(*parts: str) -> str:
    """Names a kind of model and what must be true of it, with these versions."""
    versions = (torch.__version__, transformers.__version__, _own_code())
    return hashlib.sha256("|".join((*versions, *parts)).encode()).hexdigest()


@cache
def _own_code() -> str:
    """What was verified was verified with this code."""
    told = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        told.update(file.read_bytes())
    return told.hexdigest()
