"""Whether a chain of segments with sessions generates what the whole does: tried, not believed.

A tiny model of the same kind with random weights runs whole, by its own forward with its own
cache, and as three segments that hold nothing but their own units and sessions: prompts in
slices, steps of sessions at different positions beyond a sliding window, a session cut back.
Logits must agree to the rounding of another order of summation, and the likeliest tokens be equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import torch
from transformers import DynamicCache

from dsi_mqtt.core.activation import TOKENS, Row, Tensors
from dsi_mqtt.core.model import UnitRange, Vocabulary
from dsi_mqtt.engine.torch.crossing import to_wire
from dsi_mqtt.engine.torch.describe import describe_generation
from dsi_mqtt.engine.torch.generation import GenerationEngine
from dsi_mqtt.engine.torch.layout import split_generative
from dsi_mqtt.engine.torch.sources import BuiltSource
from dsi_mqtt.engine.torch.split import SplitModel
from dsi_mqtt.engine.torch.tiny import VOCABULARY, shrunk
from dsi_mqtt.engine.torch.verify import (
    is_verified,
    kind_key,
    random_model,
    remember_verified,
)
from dsi_mqtt.errors import SplitError

if TYPE_CHECKING:
    from transformers import PretrainedConfig
    from transformers.modeling_utils import PreTrainedModel

_SEED: Final = 20_240_607
# Of the tiny model's prompts, in the slices in which they are read; its windows are 4.
_PROMPTS: Final = ((5, 5, 3), (9,), (1,))
_STEPS: Final = 6
_CONTEXT: Final = 32
_CUT_BACK: Final = (6, 4)
# Of logits; in half precision a share of the largest.
_TOLERANCE: Final = 1e-4
_SHARES: Final = {torch.float16: 0.02, torch.bfloat16: 0.1}


def verify_generation(
    cls: type[PreTrainedModel], config: PretrainedConfig, dtype: torch.dtype
) -> None:
    """Raises SplitError with the reason when sessions of this kind of model are not right.

    A kind that was found right with these versions is remembered in the cache folder.
    """
    key = kind_key("generation", cls.__name__, str(dtype), config.to_json_string())
    if is_verified(key):
        return
    for tried in dict.fromkeys((torch.float32, dtype)):
        _try_tiny(cls, config, tried)
    remember_verified(key)


def _try_tiny(cls: type[PreTrainedModel], config: PretrainedConfig, dtype: torch.dtype) -> None:
    reasons = []
    for tiny in shrunk(config):
        try:
            whole = random_model(cls, tiny, dtype)
            told = [_told(whole, sum(slices), seed) for seed, slices in enumerate(_PROMPTS)]
        except Exception as error:  # noqa: BLE001 - an invalid small configuration fails in its own way
            reasons.append(f"{type(error).__name__}: {error}")
            continue
        check_sessions(cls.__name__, _chain(cls, tiny, dtype, whole), told, dtype)
        return
    raise SplitError(
        f"{cls.__name__}: no small model of this kind runs, so its sessions are untested: "
        f"{reasons[0]}"
    )


@dataclass(frozen=True, slots=True)
class Told:
    """What the whole model made. tokens: prompt and answer. logits: (positions, vocabulary)."""

    tokens: list[int]
    logits: torch.Tensor


def _told(whole: PreTrainedModel, prompt: int, seed: int) -> Told:
    """Greedily, by the model's own forward and cache."""
    random = torch.Generator().manual_seed(_SEED + seed)
    most = min(VOCABULARY, whole.config.get_text_config().vocab_size)
    given = torch.randint(3, most, (1, prompt), generator=random)
    tokens: list[int] = given[0].tolist()
    cache = DynamicCache(config=whole.config)
    logits = []
    for _ in range(_STEPS + 1):
        with torch.inference_mode():
            output = whole(given, past_key_values=cache, use_cache=True)
        logits.append(output.logits[0].float())
        tokens.append(int(logits[-1][-1].argmax()))
        given = torch.tensor([tokens[-1:]])
    return Told(tokens, torch.cat(logits))


class Chain:
    """Segments one after the other, each an engine with sessions of its own.

    They share one module, in which each holds its weights while it computes: to follow the flow
    through a module costs more than all the rest.
    """

    def __init__(self, model: SplitModel, parts: list[tuple[GenerationEngine, UnitRange]]) -> None:
        self._model = model
        self._parts = parts

    def logits(self, rows: tuple[Row, ...], tokens: list[list[int]]) -> torch.Tensor:
        """After the last token of each row."""
        tensors: Tensors = (to_wire(TOKENS, torch.tensor(tokens)),)
        for engine, units in self._parts[:-1]:
            with self._loaded(units):
                tensors = engine.forward(units, rows, tensors)
        engine, units = self._parts[-1]
        with self._loaded(units):
            return engine.logits(units, rows, tensors)

    @contextmanager
    def _loaded(self, units: UnitRange) -> Iterator[None]:
        self._model.load(units)
        try:
            yield
        finally:
            self._model.drop(units)


def _chain(
    cls: type[PreTrainedModel], tiny: PretrainedConfig, dtype: torch.dtype, whole: PreTrainedModel
) -> Chain:
    state = whole.state_dict()
    source = BuiltSource(lambda: state, "the tiny model")
    model, manner, layout = split_generative(cls, tiny, dtype, source, origin="the tiny model")
    vocabulary = Vocabulary(_CONTEXT, int(tiny.get_text_config().vocab_size))
    graph = describe_generation(model, layout, vocabulary, "tiny")
    last = len(graph.units)
    # A block for each segment, where there are three.
    cuts = (0, 2, max(3, last - 2), last)
    parts = [
        (
            GenerationEngine(graph, model, manner, layout, text=_no_text, verify=_done),
            UnitRange(start, stop),
        )
        for start, stop in pairwise(cuts)
    ]
    return Chain(model, parts)


def _no_text() -> Any:  # noqa: ANN401 - never called
    raise SplitError("a tiny model has no tokenizer")


def _done() -> None:
    """The tiny model needs no verification of its own."""


def check_sessions(what: str, chain: Chain, told: list[Told], dtype: torch.dtype) -> None:
    """Raises SplitError where the chain differs from what the whole told."""
    for rows, tokens in _schedule(told):
        try:
            made = chain.logits(rows, tokens)
        except Exception as error:
            # Sessions are tried with models that nobody tried them with: all may be raised.
            raise SplitError(
                f"{what}: sessions fail with {type(error).__name__}: {error}"
            ) from error
        for row, logits in zip(rows, made, strict=True):
            _compare(what, row, logits, told[int(row.session)], dtype)


def _schedule(told: list[Told]) -> Iterator[tuple[tuple[Row, ...], list[list[int]]]]:
    """Rows and tokens of the passes."""

    def row(session: int, first: int, count: int) -> tuple[Row, list[int]]:
        tokens = told[session].tokens[first : first + count]
        return Row(str(session), first, count), tokens

    for session, slices in enumerate(_PROMPTS):
        for at, count in enumerate(slices):
            one, tokens = row(session, sum(slices[:at]), count)
            yield (one,), [tokens]
    for step in range(_STEPS):
        together = [row(at, sum(slices) + step, 1) for at, slices in enumerate(_PROMPTS)]
        yield tuple(one for one, _ in together), [tokens for _, tokens in together]
    # Two sessions go back together, by several tokens at once, and one of them goes on.
    together = [row(at, first, 3) for at, first in enumerate(_CUT_BACK)]
    yield tuple(one for one, _ in together), [tokens for _, tokens in together]
    one, tokens = row(0, _CUT_BACK[0] + 3, 2)
    yield (one,), [tokens]


def _compare(what: str, row: Row, logits: torch.Tensor, told: Told, dtype: torch.dtype) -> None:
    expected = told.logits[row.position + row.tokens - 1]
    most = _TOLERANCE
    if dtype in _SHARES:
        most = _SHARES[dtype] * float(expected.abs().max())
    difference = float((logits - expected).abs().max())
    if not difference <= most:
        raise SplitError(
            f"{what}: with sessions, logits at position {row.position + row.tokens - 1} differ by "
            f"{difference:.1e} from those of the whole"
        )
    if dtype == torch.float32 and int(logits.argmax()) != int(expected.argmax()):
        raise SplitError(f"{what}: with sessions, another token is likeliest than by the whole")
