"""Opens a checkpoint folder of a decoder-only model for generation."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dsi_mqtt.core.deployment import Generation
from dsi_mqtt.core.model import ModelSpec, Vocabulary
from dsi_mqtt.engine.torch.build import CONFIG, model_class, model_dtype, read_config
from dsi_mqtt.engine.torch.describe import describe_generation, digest_of, file_parts
from dsi_mqtt.engine.torch.generation import GenerationEngine
from dsi_mqtt.engine.torch.layout import split_generative
from dsi_mqtt.engine.torch.text import IDS, TOKENIZER_FILES
from dsi_mqtt.engine.torch.tokens import TEMPLATE_FILES, open_codec
from dsi_mqtt.engine.torch.verify_generation import verify_generation
from dsi_mqtt.engine.weights import FolderSource, WeightSource
from dsi_mqtt.errors import CheckpointError, ConfigError, SplitError

if TYPE_CHECKING:
    from transformers import PretrainedConfig
    from transformers.modeling_utils import PreTrainedModel

GENERATION_CONFIG: Final = "generation_config.json"


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
    # Nodes that hold sessions of other lengths are no chain.
    parts |= {"weights": weights.digest(), "context": str(vocabulary.context)}
    graph = describe_generation(model, layout, vocabulary, digest_of(parts))
    return GenerationEngine(
        graph,
        model,
        manner,
        layout,
        text=partial(open_codec, tokenizer, vocabulary.size, required=spec.tokenizer is not None),
        verify=partial(verify_generation, cls, config, dtype),
    )


def check_generates(cls: type[PreTrainedModel], config: PretrainedConfig) -> None:
    """Raises SplitError for what is no decoder-only model with a head for tokens."""
    if config.is_encoder_decoder or cls.main_input_name != IDS or not cls.can_generate():
        raise SplitError(
            f"{cls.__name__} generates no text by itself; deploy it with kind: one-pass"
        )


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
