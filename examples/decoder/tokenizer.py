"""The decoder's tokenizer: byte-level BPE, so that any text can be written in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

if TYPE_CHECKING:
    from torch import Tensor

# Ends a section; before the first token of all it means that one begins.
END: Final = "<|end|>"

# What a person says becomes a heading, and the answer is the section below it.
_CHAT_TEMPLATE: Final = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ message['content'] }}{{ eos_token }}"
    "{% else %}{{ eos_token if loop.first }}# {{ message['content'] | trim }}\n{% endif %}"
    "{% endfor %}"
)


def train_tokenizer(
    sections: Iterable[str], vocabulary: int, context: int
) -> PreTrainedTokenizerFast:
    """A tokenizer of at most `vocabulary` tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sections, trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers'
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        pad_token=END,
        clean_up_tokenization_spaces=False,
        model_max_length=context,
        chat_template=_CHAT_TEMPLATE,
    )


def encode(tokenizer: PreTrainedTokenizerFast, sections: Sequence[str]) -> Tensor:
    """(tokens,): the sections one after the other, each with its end, and an end before all."""
    numbers = tokenizer(list(sections), verbose=False)["input_ids"]
    end = tokenizer.eos_token_id
    return torch.tensor([end, *(number for row in numbers for number in (*row, end))])
