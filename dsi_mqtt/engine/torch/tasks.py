"""What a model is for: how a body becomes its inputs, and its output an answer.

| task | answer to one input |
|---|---|
| embedding | `{"embedding": […]}`: pooled and normalised as the sentence-transformers folder says |
| features | `{"features": […]}`: the pooled output of a vision model, the mean of a text's tokens |
| …-classification of image or text | `{"labels": [{"label", "id", "score"}, …]}`, best first |
| next-token | `{"tokens": [{"token", "id", "probability"}, …]}`, likeliest first |
| tensor | `{"shape": […], "output": […]}`: the model's first output |

A list of inputs is answered by `{"results": [{…}, …]}`; one of texts to embed by
`{"embeddings": [[…], …], "usage": {"prompt_tokens": …}}`, with the tokens of all of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.nn.functional import normalize
from torch.utils import _pytree as pytree

from dsi_mqtt.engine.torch.bodies import numbers, write_json
from dsi_mqtt.engine.torch.image import PIXELS, PIXELS_MAX, ImageReader
from dsi_mqtt.engine.torch.requests import Request
from dsi_mqtt.engine.torch.text import IDS, MASK, TextReader
from dsi_mqtt.engine.torch.trees import Tree
from dsi_mqtt.errors import CheckpointError, ConfigError, SplitError

if TYPE_CHECKING:
    from transformers import PretrainedConfig
    from transformers.modeling_utils import PreTrainedModel

    from dsi_mqtt.core.model import ModelSpec, UnitRange

Reader = TextReader | ImageReader
Item = dict[str, Any]
# The model's output and the inputs it was computed from, to one item for each row.
Answerer = Callable[[Tree, Mapping[str, torch.Tensor]], list[Item]]

TASKS: Final = (
    "embedding",
    "features",
    "image-classification",
    "text-classification",
    "next-token",
    "tensor",
)
_MODULES: Final = "modules.json"
_TOP_K: Final = 5


@dataclass(frozen=True, slots=True)
class Task:
    """head_inputs: further keyword arguments of the head, from the model's inputs."""

    name: str
    reader: Reader
    answerer: Answerer
    head_inputs: Callable[[Mapping[str, torch.Tensor]], dict[str, Any]]

    def prepare(self, units: UnitRange, last: int) -> None:
        """Loads the tokenizer or image processor where `units` use it. last: the head's unit."""
        if 0 in units or (last in units and self.name == "next-token"):
            self.reader.prepare()

    def read(self, content_type: str, body: bytes) -> Request:
        return self.reader.read(content_type, body)

    def reference(self) -> Request:
        return Request(self.reader.reference().inputs, batched=False)

    def result_bytes(self, config: PretrainedConfig) -> int:
        """About the bytes of one answer; a number takes 20 of them, an item of a list 60."""
        listed = self.name in ("next-token", "image-classification", "text-classification")
        return _TOP_K * 60 if listed else int(getattr(config, "hidden_size", 512)) * 20

    def answer(self, output: Tree, inputs: Mapping[str, torch.Tensor], *, batched: bool) -> bytes:
        items = self.answerer(output, inputs)
        if not batched:
            return write_json(items[0])
        if self.name == "embedding":
            vectors = [item["embedding"] for item in items]
            usage = {"prompt_tokens": int(inputs[MASK].sum())}
            return write_json({"embeddings": vectors, "usage": usage})
        return write_json({"results": items})


def find_task(
    folder: Path,
    spec: ModelSpec,
    *,
    cls: type[PreTrainedModel],
    config: PretrainedConfig,
    dtype: torch.dtype,
    parameters: frozenset[str],
) -> Task:
    """The task that `model.task` names, else the one the folder is made for."""
    options = Options.read(spec)
    if cls.main_input_name == IDS and MASK not in parameters:
        raise SplitError(f"{cls.__name__} takes no {MASK}, so padded batches cannot be served")
    if cls.main_input_name == IDS:
        reader: Reader = TextReader(_tokenizer_folder(folder, spec), config, parameters)
    elif cls.main_input_name == PIXELS:
        reader = ImageReader(folder, config, dtype, options.pixels_max)
    else:
        raise SplitError(
            f"{cls.__name__} takes {cls.main_input_name}; only texts ({IDS}) and images ({PIXELS}) "
            "are served"
        )
    name = spec.task or _detect(folder, cls.__name__, reader)
    if name not in TASKS:
        raise ConfigError(f"model.task is {name!r}; give one of {', '.join(TASKS)}")
    if name in ("embedding", "next-token") and not isinstance(reader, TextReader):
        raise ConfigError(
            f"model.task is {name!r}, which needs a text model; {cls.__name__} is none"
        )
    few_logits = name == "next-token" and "logits_to_keep" in parameters
    head_inputs = _last_positions if few_logits else _nothing
    return Task(name, reader, _answerer(name, folder, config, reader, options), head_inputs)


@dataclass(frozen=True, slots=True)
class Options:
    """`model.options` of a checkpoint folder."""

    top_k: int = _TOP_K
    pixels_max: int = PIXELS_MAX

    @classmethod
    def read(cls, spec: ModelSpec) -> Options:
        given = dict(spec.options or {})
        for name, value in given.items():
            if name not in cls.__slots__:
                raise ConfigError(f"model.options has unknown {name}; known are top_k, pixels_max")
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"model.options.{name} is {value!r}; give a whole number from 1")
        return cls(**given)


def _tokenizer_folder(folder: Path, spec: ModelSpec) -> Path:
    if spec.tokenizer and not Path(spec.tokenizer).is_dir():
        raise ConfigError(f"model.tokenizer: {spec.tokenizer} is not a folder")
    return Path(spec.tokenizer or folder)


def _detect(folder: Path, name: str, reader: Reader) -> str:
    if name.endswith("ForImageClassification"):
        return "image-classification"
    if name.endswith("ForSequenceClassification"):
        return "text-classification"
    if name.endswith(("ForCausalLM", "LMHeadModel")):
        return "next-token"
    if isinstance(reader, TextReader) and (folder / _MODULES).is_file():
        return "embedding"
    return "features" if name.endswith("Model") else "tensor"


def _answerer(
    name: str, folder: Path, config: PretrainedConfig, reader: Reader, options: Options
) -> Answerer:
    if name == "embedding":
        return _Embedding.read(folder)
    if name == "features":
        return _features
    if name == "next-token":
        assert isinstance(reader, TextReader)  # noqa: S101 - `find_task` checked it
        return _NextToken(reader, options.top_k)
    if name == "tensor":
        return _tensor
    names = config.id2label or {}
    return _Labels({int(key): str(label) for key, label in names.items()}, options.top_k)


@dataclass(frozen=True, slots=True)
class _Embedding:
    """As sentence-transformers: pooling over real tokens, then length one where asked for."""

    mode: str
    unit_length: bool

    @classmethod
    def read(cls, folder: Path) -> _Embedding:
        file = folder / _MODULES
        if not file.is_file():
            return cls("mean", unit_length=True)
        kinds = {str(part.get("type", "")).rpartition(".")[2]: part for part in _stored(file)}
        unknown = kinds.keys() - {"Transformer", "Pooling", "Normalize"}
        if unknown or "Pooling" not in kinds:
            raise CheckpointError(
                f"{file}: only Transformer, Pooling and Normalize are supported, "
                f"found {', '.join(sorted(kinds))}"
            )
        pooling = folder / str(kinds["Pooling"].get("path", "")) / "config.json"
        return cls(_pooling_mode(pooling), "Normalize" in kinds)

    def __call__(self, output: Tree, inputs: Mapping[str, torch.Tensor]) -> list[Item]:
        hidden = output.last_hidden_state.float()
        mask = inputs[MASK].unsqueeze(-1).float()
        if self.mode == "cls":
            pooled = hidden[:, 0]
        elif self.mode == "max":
            pooled = hidden.masked_fill(mask == 0, -1e9).amax(dim=1)
        else:
            pooled = _masked_mean(hidden, mask)
        if self.unit_length:
            pooled = normalize(pooled, p=2, dim=1)
        return [{"embedding": numbers(row)} for row in pooled]


def _stored(file: Path) -> Any:  # noqa: ANN401 - JSON
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} is not readable JSON; copy it again") from error


def _pooling_mode(file: Path) -> str:
    stored = _stored(file)
    named = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max"}
    modes = [
        key.removeprefix("pooling_mode_")
        for key, on in stored.items()
        if key.startswith("pooling_mode_") and on is True
    ]
    if len(modes) != 1 or modes[0] not in named:
        raise CheckpointError(f"{file}: pooling {modes} is not supported; one of cls, mean, max is")
    return named[modes[0]]


def _masked_mean(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1e-9)


def _features(output: Tree, inputs: Mapping[str, torch.Tensor]) -> list[Item]:
    if MASK in inputs:
        pooled = _masked_mean(output.last_hidden_state.float(), inputs[MASK].unsqueeze(-1).float())
    else:
        pooler = getattr(output, "pooler_output", None)
        pooled = output.last_hidden_state.mean(dim=1) if pooler is None else pooler
    return [{"features": numbers(row.flatten())} for row in pooled]


def _tensor(output: Tree, inputs: Mapping[str, torch.Tensor]) -> list[Item]:
    del inputs
    first = next(leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor))
    return [{"shape": list(row.shape), "output": numbers(row)} for row in first]


@dataclass(frozen=True, slots=True)
class _Labels:
    names: Mapping[int, str]
    top_k: int

    def __call__(self, output: Tree, inputs: Mapping[str, torch.Tensor]) -> list[Item]:
        del inputs
        scores = output.logits.float().softmax(dim=-1)
        best = scores.topk(min(self.top_k, scores.shape[-1]), dim=-1)
        return [
            {
                "labels": [
                    {"label": self.names.get(number, str(number)), "id": number, "score": score}
                    for score, number in zip(numbers(values), numbers(indices), strict=True)
                ]
            }
            for values, indices in zip(*best, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class _NextToken:
    reader: TextReader
    top_k: int

    def __call__(self, output: Tree, inputs: Mapping[str, torch.Tensor]) -> list[Item]:
        last = inputs[MASK].sum(dim=1) - 1
        kept = _last_positions(inputs)["logits_to_keep"]
        if output.logits.shape[1] == len(kept):
            last = torch.searchsorted(kept, last)
        logits = output.logits[torch.arange(len(last)), last]
        best = logits.float().softmax(dim=-1).topk(min(self.top_k, logits.shape[-1]), dim=-1)
        return [
            {
                "tokens": [
                    {"token": self.reader.token(number), "id": number, "probability": probability}
                    for probability, number in zip(numbers(values), numbers(indices), strict=True)
                ]
            }
            for values, indices in zip(*best, strict=True)
        ]


def _last_positions(inputs: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Only the last real token of each row has logits anyone reads; vocabularies are large."""
    return {"logits_to_keep": torch.unique(inputs[MASK].sum(dim=1) - 1)}


def _nothing(inputs: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    del inputs
    return {}
