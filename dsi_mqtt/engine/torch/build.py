"""A transformers model as a module tree: parameters on meta, other buffers real.

The class and the configuration come from the folder's `config.json`, never code: classes are those
of the installed transformers alone.
"""

from __future__ import annotations

import copy
import json
import re
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
import transformers
from transformers.core_model_loading import build_glob_alternation
from transformers.modeling_utils import PreTrainedModel

from dsi_mqtt.engine.torch.dtypes import DTYPES
from dsi_mqtt.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

CONFIG: Final = "config.json"
MODEL_DTYPES: Final = ("float32", "float16", "bfloat16")
# Building patches globals of transformers, so one model at a time.
building: Final = threading.Lock()


def model_dtype(name: str) -> torch.dtype:
    if name not in MODEL_DTYPES:
        raise ConfigError(f"model.dtype is {name!r}; give one of {', '.join(MODEL_DTYPES)}")
    return DTYPES[name]


def read_config(folder: Path) -> PretrainedConfig:
    """The folder's configuration. Raises CheckpointError naming the file."""
    file = folder / CONFIG
    try:
        stored = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(
            f"{file} is missing; model.path must be a transformers checkpoint folder"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} is not readable JSON; copy it again") from error
    kind = stored.get("model_type") if isinstance(stored, dict) else None
    if not isinstance(kind, str) or kind not in transformers.CONFIG_MAPPING:
        raise CheckpointError(
            f"{file}: model_type {kind!r} is not one that transformers "
            f"{transformers.__version__} knows"
        )
    try:
        config = transformers.CONFIG_MAPPING[kind].from_dict(stored)
    except Exception as error:
        # Each configuration class validates in its own way and with its own exceptions.
        raise CheckpointError(f"{file} is not a valid {kind} configuration: {error}") from error
    if getattr(config, "quantization_config", None) is not None:
        raise CheckpointError(f"{file}: quantized checkpoints are not supported; use float weights")
    return one_pass(config)


def one_pass(config: PretrainedConfig) -> PretrainedConfig:
    """The configuration with nothing recorded on the side: no cache, no attentions, no states."""
    for name in ("use_cache", "output_attentions", "output_hidden_states"):
        if hasattr(config, name):
            setattr(config, name, False)
    config.return_dict = True
    return config


def model_class(config: PretrainedConfig, file: Path) -> type[PreTrainedModel]:
    """The class that `architectures` names. Raises CheckpointError naming the file."""
    names = config.architectures or []
    found = getattr(transformers, names[0], None) if len(names) == 1 else None
    if not (isinstance(found, type) and issubclass(found, PreTrainedModel)):
        raise CheckpointError(
            f"{file}: architectures is {names}; it must name one model class of transformers"
        )
    return found


def build_hollow(
    cls: type[PreTrainedModel], config: PretrainedConfig, dtype: torch.dtype
) -> PreTrainedModel:
    """The model in eval mode: parameters and stored buffers on meta, computed buffers real.

    This is how `from_pretrained` begins. Tied weights are apart; the loader ties what it loads.
    """
    config = copy.deepcopy(config)
    _set_dtype(config, dtype)
    with building:
        with ExitStack() as contexts:
            # Built in the default dtype and cast after: setting the default would change what a
            # segment computes meanwhile on another thread.
            for context in cls.get_init_context(torch.get_default_dtype(), False, False, None):
                contexts.enter_context(context)
            model: PreTrainedModel = cls(config)
        _compute_buffers(model)
    kept = _kept_in_float32(model, dtype)
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not (kept and kept.search(name)):
            parameter.data = parameter.data.to(dtype)
    for name, buffer in stored_buffers(model).items():
        if buffer.is_floating_point():
            set_tensor(model, name, buffer.to(dtype))
    model.eval()  # type: ignore[no-untyped-call]
    return model


def stored_buffers(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Buffers that a checkpoint holds (running statistics), by full name."""
    stored = module.state_dict(keep_vars=True).keys()
    return {name: buffer for name, buffer in module.named_buffers() if name in stored}


def set_tensor(module: torch.nn.Module, name: str, value: torch.Tensor) -> None:
    """Puts `value` in place of the parameter or buffer `name`."""
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    table: dict[str, Any] = owner._parameters if leaf in owner._parameters else owner._buffers  # noqa: SLF001 - setattr would clone or refuse phantoms
    if table is owner._parameters and not isinstance(value, torch.nn.Parameter):  # noqa: SLF001
        value = torch.nn.Parameter(value, requires_grad=False)
    table[leaf] = value


def _kept_in_float32(model: PreTrainedModel, dtype: torch.dtype) -> re.Pattern[str] | None:
    """What the model's authors keep in float32 whatever the dtype of the rest."""
    plan = model._get_dtype_plan(dtype)  # noqa: SLF001 - `from_pretrained` has it from there too
    return build_glob_alternation(list(plan))[0] if plan else None


def _set_dtype(config: PretrainedConfig, dtype: torch.dtype) -> None:
    config.dtype = dtype
    for name in config.sub_configs:
        part = getattr(config, name, None)
        if part is not None:
            part.dtype = dtype


def _compute_buffers(model: PreTrainedModel) -> None:
    """Values for the buffers that no checkpoint stores, by the model's own initialisation."""
    stored = model.state_dict(keep_vars=True)
    for tensor in stored.values():
        # The library's mark for "hands off": only what lacks it is initialised.
        tensor._is_hf_initialized = True  # noqa: SLF001
    for name, buffer in model.named_buffers():
        if name not in stored:
            set_tensor(model, name, torch.empty_like(buffer, device="cpu"))
    model.initialize_weights()  # type: ignore[no-untyped-call]
