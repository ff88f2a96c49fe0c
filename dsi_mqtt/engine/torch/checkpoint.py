"""The layer tier: the engine of a checkpoint folder of transformers."""

from __future__ import annotations

import inspect
from functools import partial
from pathlib import Path
from typing import Final

from dsi_mqtt.core.model import ModelSpec
from dsi_mqtt.engine.torch.build import CONFIG, model_class, model_dtype, read_config
from dsi_mqtt.engine.torch.describe import describe, digest_of, file_parts
from dsi_mqtt.engine.torch.engine import TorchEngine
from dsi_mqtt.engine.torch.image import PROCESSOR_FILES
from dsi_mqtt.engine.torch.layer import split_layer
from dsi_mqtt.engine.torch.tasks import find_task
from dsi_mqtt.engine.torch.text import TOKENIZER_FILES
from dsi_mqtt.engine.torch.verify import verify_layer
from dsi_mqtt.engine.weights import FolderSource, WeightSource
from dsi_mqtt.errors import ConfigError

# What of a folder, besides configuration and weights, changes an answer.
_TASK_FILES: Final = (
    *PROCESSOR_FILES,
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
)


def open_checkpoint(spec: ModelSpec, source: WeightSource | None = None) -> TorchEngine:
    """Reads the folder's configuration and weight headers.

    source: where weights come from, by default the folder. Raises ConfigError, CheckpointError,
    and SplitError for a model whose flow is no chain.
    """
    if not spec.path:
        raise ConfigError("model.path is missing; a layer model is a checkpoint folder")
    folder = Path(spec.path)
    dtype = model_dtype(spec.dtype)
    config = read_config(folder)
    cls = model_class(config, folder / CONFIG)
    weights = FolderSource(folder) if source is None else source
    parameters = frozenset(inspect.signature(cls.forward).parameters)
    task = find_task(folder, spec, cls=cls, config=config, dtype=dtype, parameters=parameters)
    inputs = task.reader.reference()
    model = split_layer(cls, config, dtype, weights, inputs, origin=str(folder))
    parts = file_parts(folder, (CONFIG, *_TASK_FILES))
    parts |= file_parts(Path(spec.tokenizer or folder), TOKENIZER_FILES)
    graph = describe(
        model,
        task.reference(),
        tier="layer",
        digest=digest_of(parts | {"weights": weights.digest()}),
        result_bytes=task.result_bytes(config),
    )
    return TorchEngine(graph, model, task, partial(verify_layer, cls, config, dtype))
