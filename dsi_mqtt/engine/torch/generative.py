"""Opens a checkpoint folder of a decoder-only model for generation."""

from __future__ import annotations

import copy
import inspect
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from dsi_mqtt.core.activation import Row
from dsi_mqtt.core.deployment import Generation
from dsi_mqtt.core.model import ModelSpec, Vocabulary
from dsi_mqtt.engine.torch.build import CONFIG, model_class, model_dtype, read_config
from dsi_mqtt.engine.torch.cache import LayoutCache
from dsi_mqtt.engine.torch.describe import describe_generation, digest_of, file_parts
from dsi_mqtt.engine.torch.generation import POSITIONS, GenerationEngine, Manner
from dsi_mqtt.engine.torch.layer import split_layer
from dsi_mqtt.engine.torch.phantom import NeedsValueError, phantom
from dsi_mqtt.engine.torch.ragged import RAGGED
from dsi_mqtt.engine.torch.sessions import Layout
from dsi_mqtt.engine.torch.split import SplitModel
from dsi_mqtt.engine.torch.structure import Reference
from dsi_mqtt.engine.torch.text import IDS, TOKENIZER_FILES
from dsi_mqtt.engine.torch.tokens import TEMPLATE_FILES, open_codec
from dsi_mqtt.engine.weights import FolderSource, WeightSource
from dsi_mqtt.errors import CheckpointError, ConfigError, SplitError

if TYPE_CHECKING:
    from transformers import PretrainedConfig
    from transformers.modeling_utils import PreTrainedModel

GENERATION_CONFIG: Final = "generation_config.json"
# Two sessions at different positions: the least that is ragged.
_PROBE: Final = (Row("a", 3), Row("b", 1))


def open_generative(
    spec: ModelSpec, generation: Generation, source: WeightSource | None = None
) -> GenerationEngine:
    """Reads the folder's configuration and weight headers.

    source: where weights come from, by default the folder. Raises ConfigError, CheckpointError,
    and SplitError for a model whose flow is no chain or that keeps more than keys and values.
    """
    if not spec.path:
        raise ConfigError("model.path is missing; a layer model is a checkpoint folder")
    if spec.task:
        raise ConfigError("model.task is for kind: one-pass; a generation has none, remove it")
    folder = Path(spec.path)
    dtype = model_dtype(spec.dtype)
    config = read_config(folder)
    cls = model_class(config, folder / CONFIG)
    check_generates(cls, config)
    weights = FolderSource(folder) if source is None else source
    model, manner, layout = split_generative(cls, config, dtype, weights, origin=str(folder))
    vocabulary = read_vocabulary(folder, config, generation)
    tokenizer = Path(spec.tokenizer or folder)
    parts = file_parts(folder, (CONFIG, GENERATION_CONFIG))
    parts |= file_parts(tokenizer, (*TOKENIZER_FILES, *TEMPLATE_FILES))
    graph = describe_generation(
        model, layout, vocabulary, digest_of(parts | {"weights": weights.digest()})
    )
    return GenerationEngine(
        graph,
        model,
        manner,
        layout,
        text=partial(open_codec, tokenizer, vocabulary.size, required=spec.tokenizer is not None),
        verify=partial(lambda: None),
    )


def check_generates(cls: type[PreTrainedModel], config: PretrainedConfig) -> None:
    """Raises SplitError for what is no decoder-only model with a head for tokens."""
    if config.is_encoder_decoder or cls.main_input_name != IDS or not cls.can_generate():
        raise SplitError(
            f"{cls.__name__} generates no text by itself; deploy it with kind: one-pass"
        )


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
    ragged = cls._supports_attention_backend and POSITIONS in parameters  # noqa: SLF001 - the library's mark
    for manner in (Manner(True, parameters), Manner(False, parameters)):
        if manner.ragged and not ragged:
            continue
        wanted = copy.deepcopy(config)
        if manner.ragged:
            wanted._attn_implementation = RAGGED  # noqa: SLF001 - as the library's own argument does
        try:
            model = split_layer(cls, wanted, dtype, source, reference, origin=origin)
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


def read_vocabulary(folder: Path, config: PretrainedConfig, generation: Generation) -> Vocabulary:
    text = config.get_text_config()
    most = getattr(text, "max_position_embeddings", None)
    context = min(generation.context, most) if isinstance(most, int) else generation.context
    return Vocabulary(context, int(text.vocab_size), _ends(folder / GENERATION_CONFIG, config))


def _ends(file: Path, config: PretrainedConfig) -> tuple[int, ...]:
    """What ends a text: as the generation configuration says, else the model's."""
    found = getattr(config.get_text_config(), "eos_token_id", None)
    if file.is_file():
        try:
            found = json.loads(file.read_bytes()).get("eos_token_id", found)
        except (OSError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{file} is not readable JSON; copy it again") from error
    ends = found if isinstance(found, list) else [found]
    return tuple(sorted({end for end in ends if isinstance(end, int)}))
