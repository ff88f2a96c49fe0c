"""How a model is computed for sessions, and what each of its layers keeps of one."""

from __future__ import annotations

import copy
import inspect
from typing import TYPE_CHECKING, Any, Final

import torch

from dsi_mqtt.core.activation import Row
from dsi_mqtt.engine.torch.cache import StepCache
from dsi_mqtt.engine.torch.generation import POSITIONS, Manner
from dsi_mqtt.engine.torch.layer import split_layer
from dsi_mqtt.engine.torch.phantom import NeedsValueError, Phantom, phantom
from dsi_mqtt.engine.torch.ragged import RAGGED
from dsi_mqtt.engine.torch.sessions import Layout, Slot
from dsi_mqtt.engine.torch.split import SplitModel
from dsi_mqtt.engine.torch.structure import Reference
from dsi_mqtt.engine.torch.text import IDS
from dsi_mqtt.engine.weights import WeightSource
from dsi_mqtt.errors import SplitError

if TYPE_CHECKING:
    from transformers import PretrainedConfig
    from transformers.modeling_utils import PreTrainedModel

# Two sessions at different positions: the least that is ragged.
_PROBE: Final = (Row("a", 3), Row("b", 1))


def split_generative(
    cls: type[PreTrainedModel],
    config: PretrainedConfig,
    dtype: torch.dtype,
    source: WeightSource,
    *,
    origin: str,
) -> tuple[SplitModel, Manner, Layout]:
    """The model, how its steps are computed, and what its layers keep. Raises SplitError."""
    parameters = frozenset(inspect.signature(cls.forward).parameters)
    reference = Reference({IDS: torch.zeros((1, 1), dtype=torch.int64)})
    refusal: Exception | None = None
    ragged = cls._supports_attention_backend and POSITIONS in parameters
    for manner in (Manner(True, parameters), Manner(False, parameters)):
        if manner.ragged and not ragged:
            continue
        wanted = copy.deepcopy(config)
        if manner.ragged:
            wanted._attn_implementation = RAGGED  # noqa: SLF001 - as the library's own argument does
        try:
            model = split_layer(cls, wanted, dtype, source, reference, origin=origin, few_rows=True)
            return model, manner, _find_layout(model, manner)
        except SplitError as error:
            refusal = refusal or error
    assert refusal is not None  # noqa: S101 - one of two was tried
    raise refusal


def _find_layout(model: SplitModel, manner: Manner) -> Layout:
    if model.structure.carried:
        raise SplitError(
            f"later units compute with {', '.join(model.structure.carried)}; "
            "of a step only the stream crosses a cut"
        )
    rows = _PROBE if manner.ragged else _PROBE[:1]
    cache = LayoutCache(rows, model.structure.blocks, ragged=manner.ragged)
    ids = phantom((len(rows), 1), torch.int64, {f"input:{IDS}"})
    try:
        model.follow(manner.inputs(ids, rows, cache))
    except NeedsValueError as error:
        raise SplitError(f"a step depends on computed values: {error}") from error
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError, KeyError) as error:
        # Also what models raise that look at a cache in another way than by its methods.
        raise SplitError(f"the model cannot be followed with a cache: {error}") from error
    if not cache.layout:
        raise SplitError("the model keeps no keys and values, so there is nothing to continue")
    return cache.layout


class LayoutCache(StepCache):
    """Learns from phantoms what each layer keeps. blocks: paths of the units 1…N."""

    def __init__(self, rows: tuple[Row, ...], blocks: tuple[str, ...], *, ragged: bool) -> None:
        super().__init__(rows, {}, ragged=ragged)
        self._blocks = blocks
        self._tokens = rows[0].tokens
        self.layout: dict[int, Slot] = {}

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *args: Any,  # noqa: ANN401 - as the library's
        **kwargs: Any,  # noqa: ANN401
    ) -> tuple[Any, Any]:
        del args, kwargs
        states = (key_states, value_states)
        rows = len(self._firsts)
        fits = all(s.dim() == 4 and s.shape[::2] == (rows, self._tokens) for s in states)  # noqa: PLR2004 - rows, heads, tokens, width
        if layer_idx in self.layout or not fits or not isinstance(key_states, Phantom):
            raise SplitError(
                f"layer {layer_idx} keeps {tuple(key_states.shape)} in its cache; sessions hold "
                "keys and values of (rows, heads, tokens, width) once a layer"
            )
        self.layout[layer_idx] = Slot(
            self._unit(key_states.sources),
            (key_states.shape[1], key_states.shape[3]),
            (value_states.shape[1], value_states.shape[3]),
            key_states.dtype,
        )
        return self.hollow(key_states), self.hollow(value_states)

    def _unit(self, sources: set[str]) -> int:
        """The last unit whose weights went into it, for the flow is a chain."""
        units = [
            unit
            for unit, path in enumerate(self._blocks, start=1)
            if any(name.startswith(f"{path}.") for name in sources)
        ]
        if not units:
            raise SplitError("keys of a layer come from no block")
        return units[-1]
