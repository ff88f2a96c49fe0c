"""Texts and token numbers as a model's inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer

from dsi_mqtt.core.activation import JSON, NPY, TEXT, media_type
from dsi_mqtt.engine.torch.bodies import (
    array_of_numbers,
    is_array,
    read_array,
    read_json,
    read_text,
)
from dsi_mqtt.engine.torch.requests import Request
from dsi_mqtt.engine.torch.structure import Reference
from dsi_mqtt.errors import CheckpointError, InvalidInputError, ModelFailedError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

MASK: Final = "attention_mask"
IDS: Final = "input_ids"
# Any one of these makes a folder one with a tokenizer.
TOKENIZER_FILES: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
)
_REFERENCE_TOKENS: Final = 32


class TextReader:
    """Texts through the folder's tokenizer; token numbers where it has none."""

    def __init__(self, folder: Path, config: PretrainedConfig, parameters: frozenset[str]) -> None:
        """parameters: names that the model's forward takes."""
        self._folder = folder
        self._config = config
        self._parameters = parameters
        self._tokenizer: Any = None

    @property
    def has_tokenizer(self) -> bool:
        return any((self._folder / name).is_file() for name in TOKENIZER_FILES[:4])

    def reference(self) -> Reference:
        positions = getattr(self._config, "max_position_embeddings", None) or _REFERENCE_TOKENS
        ids = torch.zeros((1, min(_REFERENCE_TOKENS, positions)), dtype=torch.int64)
        inputs = {IDS: ids, MASK: torch.ones_like(ids)}
        return Reference(
            {name: value for name, value in inputs.items() if name in self._parameters},
            frozenset({MASK} & self._parameters),
        )

    def prepare(self) -> None:
        """Loads the tokenizer, if there is one. Raises CheckpointError."""
        if self._tokenizer is not None or not self.has_tokenizer:
            return
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                str(self._folder), local_files_only=True, trust_remote_code=False
            )
        except Exception as error:
            # Tokenizer classes raise of their own; all of it means that these files do not serve.
            raise CheckpointError(
                f"{self._folder}: the tokenizer cannot be loaded: {error}"
            ) from error
        tokenizer.padding_side = "right"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        self._tokenizer = tokenizer

    def read(self, content_type: str, body: bytes) -> Request:
        self.prepare()
        kind = media_type(content_type)
        if is_array(kind, body):
            return self._numbers(read_array(body))
        if kind == TEXT:
            value: object = read_text(body)
        elif kind == JSON:
            value = read_json(body)
        else:
            raise InvalidInputError(
                f"this model reads text, not {content_type!r}; send {TEXT}, {JSON} or {NPY}"
            )
        if isinstance(value, dict) and value.keys() == {"text"}:
            value = value["text"]
        if self._tokenizer is None:
            return self._listed_numbers(value)
        if isinstance(value, str):
            return self._texts([value], batched=False)
        if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
            return self._texts(value, batched=True)
        raise InvalidInputError(
            'expected a text: a JSON string, a list of strings, or {"text": …} with either'
        )

    def token(self, number: int) -> str | None:
        """The text of one token; None without a tokenizer."""
        self.prepare()
        return None if self._tokenizer is None else str(self._tokenizer.decode([number]))

    def _texts(self, texts: list[str], *, batched: bool) -> Request:
        most = self._most_tokens()
        cuts = most is not None and self._cuts_off()
        encoded = self._tokenizer(
            [whole_characters(text) for text in texts],
            padding=True,
            truncation=cuts,
            max_length=most if cuts else None,
            return_tensors="np",
        )
        tokens = int(encoded[IDS].shape[1])
        if not encoded[IDS].size or not encoded[MASK].any(axis=1).all():
            raise InvalidInputError("the text is empty; send at least one word")
        if most is not None and tokens > most:
            raise InvalidInputError(
                f"the text has {tokens} tokens; this model reads {most} at most"
            )
        largest = int(encoded[IDS].max())
        if largest >= self._vocabulary():
            raise ModelFailedError(
                f"the tokenizer gives token {largest}, the model knows {self._vocabulary()}; "
                "model.tokenizer and model.path do not belong together"
            )
        inputs = {
            name: torch.from_numpy(np.asarray(value, dtype=np.int64))
            for name, value in encoded.items()
            if name in self._parameters
        }
        return Request(inputs, batched)

    def _listed_numbers(self, value: object) -> Request:
        """Lists of token numbers, padded where they differ in length."""
        rows = (
            value if isinstance(value, list) and value and isinstance(value[0], list) else [value]
        )
        arrays = [array_of_numbers(row, "token numbers") for row in rows]
        if any(array.ndim != 1 for array in arrays):
            raise InvalidInputError("expected a list of token numbers, or a list of such lists")
        most = max(len(array) for array in arrays)
        ids = np.stack([np.pad(array, (0, most - len(array))) for array in arrays])
        mask = np.stack([np.arange(most) < len(array) for array in arrays])
        return self._checked(ids, mask, batched=rows is value)

    def _numbers(self, array: NDArray[Any]) -> Request:
        if array.ndim not in (1, 2) or not array.size:
            raise InvalidInputError(
                f"token numbers have shape {array.shape}; send (tokens,) or (batch, tokens)"
            )
        ids = np.atleast_2d(array)
        return self._checked(ids, np.ones(ids.shape, bool), batched=array.ndim > 1)

    def _checked(self, ids: NDArray[Any], mask: NDArray[np.bool_], *, batched: bool) -> Request:
        known = self._vocabulary()
        if ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() >= known:
            raise InvalidInputError(f"token numbers must be whole and from 0 to {known - 1}")
        most = self._most_tokens()
        if most is not None and ids.shape[1] > most:
            raise InvalidInputError(f"{ids.shape[1]} tokens came; this model reads {most} at most")
        inputs = {IDS: torch.from_numpy(ids.astype(np.int64)), MASK: torch.from_numpy(mask).long()}
        return Request(
            {name: value for name, value in inputs.items() if name in self._parameters}, batched
        )

    def _vocabulary(self) -> int:
        return int(self._config.get_text_config().vocab_size)

    def _most_tokens(self) -> int | None:
        """The least of what model, tokenizer and sentence-transformers file allow."""
        limits = [
            getattr(self._config, "max_position_embeddings", None),
            getattr(self._tokenizer, "model_max_length", None),
            sentence_limit(self._folder),
        ]
        known = [int(limit) for limit in limits if limit and limit < 1 << 40]
        return min(known, default=None)

    def _cuts_off(self) -> bool:
        """Whether the tokenizer's own file says that longer texts are cut off."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        return getattr(backend, "truncation", None) is not None


def whole_characters(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidInputError("the text holds half a character (a lone surrogate)") from None
    return text


def sentence_limit(folder: Path) -> int | None:
    try:
        value = json.loads((folder / "sentence_bert_config.json").read_bytes())["max_seq_length"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return value if isinstance(value, int) else None
