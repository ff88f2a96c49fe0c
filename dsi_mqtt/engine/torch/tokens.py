"""Prompts to token ids, and token ids to text as they come."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Final

from transformers import AutoTokenizer

from dsi_mqtt.core.generation import Prompt, Turn
from dsi_mqtt.engine.torch.text import TOKENIZER_FILES, whole_characters
from dsi_mqtt.errors import CheckpointError, InvalidInputError

TEMPLATE_FILES: Final = ("chat_template.jinja", "chat_template.json")
# Any one of these makes a folder one with a tokenizer.
_NAMED: Final = TOKENIZER_FILES[:4]
# Half a character: what byte-level tokens decode to that lack their others.
_HALF: Final = "\ufffd"
# No character has more tokens; so many that still end within one are no text.
_PENDING_MAX: Final = 8


def open_codec(folder: Path, size: int, *, required: bool) -> Codec:
    """The folder's tokenizer; without one, token ids alone are read and no text is told.

    size: of the vocabulary. required: whether the folder was named for its tokenizer. Raises
    CheckpointError.
    """
    if not any((folder / name).is_file() for name in _NAMED):
        if required:
            raise CheckpointError(f"{folder} (model.tokenizer) holds no tokenizer")
        return Codec(None, size)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        # Tokenizer classes raise of their own; all of it means that these files do not serve.
        raise CheckpointError(f"{folder}: the tokenizer cannot be loaded: {error}") from error
    return Codec(tokenizer, size)


class Codec:
    """See `engine.base.TextCodec`. With a tokenizer of its own, so beside a running engine."""

    def __init__(self, tokenizer: Any, size: int) -> None:  # noqa: ANN401 - transformers'
        self._tokenizer = tokenizer
        self._size = size
        # The library's tokenizers keep settings between calls; a door may read and tell at once.
        self._lock = threading.Lock()

    def read(self, prompt: Prompt) -> tuple[int, ...]:
        if isinstance(prompt, str):
            return self._checked(self._encoded(prompt))
        turns = [part for part in prompt if isinstance(part, Turn)]
        if turns:
            return self._checked(self._templated(turns))
        return self._checked([part for part in prompt if isinstance(part, int)])

    def stream(self) -> Stream:
        return Stream(self._tokenizer, self._lock)

    def _encoded(self, text: str) -> list[int]:
        if self._tokenizer is None:
            raise InvalidInputError("this model has no tokenizer; send a list of token ids")
        with self._lock:
            return list(self._tokenizer(whole_characters(text), verbose=False)["input_ids"])

    def _templated(self, turns: list[Turn]) -> list[int]:
        if self._tokenizer is None or not self._tokenizer.chat_template:
            raise InvalidInputError("this model has no chat template; send a prompt, not messages")
        told = [{"role": turn.role, "content": whole_characters(turn.content)} for turn in turns]
        try:
            with self._lock:
                return list(
                    self._tokenizer.apply_chat_template(
                        told, add_generation_prompt=True, tokenize=True, return_dict=False
                    )
                )
        except Exception as error:
            # Templates are programs of the model's authors, and refuse in words of their own.
            raise InvalidInputError(f"the chat template refuses the messages: {error}") from error

    def _checked(self, tokens: list[int]) -> tuple[int, ...]:
        if not tokens:
            raise InvalidInputError("the prompt is empty; send at least one word")
        if min(tokens) < 0 or max(tokens) >= self._size:
            raise InvalidInputError(f"token ids of this model are from 0 to {self._size - 1}")
        return tuple(tokens)


class Stream:
    """See `engine.base.TextStream`.

    A token's text depends on those before it (spaces, bytes of one character), but not on far
    ones: it is what the text of a short window grows by.
    """

    def __init__(self, tokenizer: Any, lock: threading.Lock) -> None:  # noqa: ANN401 - transformers'
        self._tokenizer = tokenizer
        self._lock = lock
        self._special = frozenset() if tokenizer is None else frozenset(tokenizer.all_special_ids)
        # Tokens whose text is out, then those that wait.
        self._told: list[int] = [] if tokenizer is None else _before(tokenizer)
        self._waiting: list[int] = []

    def push(self, tokens: tuple[int, ...]) -> str:
        if self._tokenizer is None:
            return ""
        with self._lock:
            return "".join(self._pushed(token) for token in tokens if self._is_text(token))

    def flush(self) -> str:
        if not self._waiting:
            return ""
        with self._lock:
            return self._grown()

    def _is_text(self, token: int) -> bool:
        """Models have more token ids than their tokenizer, to fill up a matrix."""
        return token < len(self._tokenizer) and token not in self._special

    def _pushed(self, token: int) -> str:
        self._waiting.append(token)
        text = self._grown()
        whole = text and not text.endswith(_HALF)
        if whole or len(self._waiting) >= _PENDING_MAX:
            # Tokens without a text of their own would leave no window for the spaces of the next.
            self._told, self._waiting = self._waiting if text else self._told, []
            return text
        return ""

    def _grown(self) -> str:
        told, grown = self._decoded(self._told), self._decoded(self._told + self._waiting)
        return grown[len(told) :]

    def _decoded(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, clean_up_tokenization_spaces=False))


def _before(tokenizer: Any) -> list[int]:  # noqa: ANN401 - transformers'
    """A word that the text is thought to follow, so that its own first space is seen."""
    return list(tokenizer("a", add_special_tokens=False)["input_ids"])[-1:]
