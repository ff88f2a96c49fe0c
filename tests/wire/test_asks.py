from __future__ import annotations

import contextlib
import hashlib
import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsi_mqtt.core.deployment import Generation
from dsi_mqtt.core.generation import Ask, Completion, Partial, Sampling, Turn, rolling_hash
from dsi_mqtt.core.request import Answer
from dsi_mqtt.errors import InvalidInputError, RequestError
from dsi_mqtt.wire.asks import (
    completion_body,
    partial_answer,
    read_ask,
    read_completion,
    read_partial,
)

DEFAULTS = Generation(context=100, temperature=0.7, max_tokens=20)


def ask(value: object) -> Ask:
    return read_ask(json.dumps(value).encode(), DEFAULTS)


@pytest.mark.parametrize("given_prompt", ["Once", {"prompt": "Once"}])
def test_a_text_alone_is_a_prompt_with_the_deployments_settings(given_prompt: object) -> None:
    assert ask(given_prompt) == Ask("Once", max_tokens=20, temperature=0.7)


def test_everything_that_can_be_asked() -> None:
    assert ask(
        {
            "messages": [{"role": "user", "content": "Hi", "name": "ignored"}],
            "max_tokens": 5,
            "temperature": 0,
            "top_k": 4,
            "top_p": 0.5,
            "seed": 9,
            "stop": ["a", "b"],
            "stream": True,
            "alive_s": 3,
        }
    ) == Ask((Turn("user", "Hi"),), 5, 0.0, 4, 0.5, 9, ("a", "b"), stream=True, alive_s=3.0)
    assert ask([1, 2]).prompt == (1, 2)
    assert ask({"prompt": "x", "stop": "y"}).stop == ("y",)
    assert ask({"prompt": "x", "seed": None, "stop": None, "max_tokens": None}).seed is None


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({}, "either prompt or messages"),
        ({"prompt": "x", "messages": []}, "either prompt or messages"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [1, -1]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": [2**60]}, "prompt"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages"),
        ({"messages": {"role": "user", "content": "x"}}, "messages"),
        ({"prompt": "x", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "x", "max_tokens": 101}, "max_tokens must be a whole number from 1 to 100"),
        ({"prompt": "x", "max_tokens": 1.5}, "max_tokens"),
        ({"prompt": "x", "temperature": -1}, "temperature"),
        ({"prompt": "x", "temperature": True}, "temperature"),
        ({"prompt": "x", "temperature": math.nan}, "temperature"),
        ({"prompt": "x", "top_k": -1}, "top_k"),
        ({"prompt": "x", "top_p": 0}, "top_p"),
        ({"prompt": "x", "top_p": 1.1}, "top_p"),
        ({"prompt": "x", "seed": "y"}, "seed"),
        ({"prompt": "x", "stop": [""]}, "stop"),
        ({"prompt": "x", "stop": ["s"] * 9}, "stop"),
        ({"prompt": "x", "stop": 3}, "stop"),
        ({"prompt": "x", "stream": 1}, "stream"),
        ({"prompt": "x", "alive_s": 0.5}, "alive_s"),
        ({"prompt": "x", "tempreature": 1}, "tempreature"),
        (7, "prompt, or an object"),
    ],
)
def test_what_is_wrong_is_named(value: object, named: str) -> None:
    with pytest.raises(InvalidInputError, match=named) as raised:
        ask(value)
    assert len(str(raised.value)) <= 200


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists, max_leaves=4))
def test_any_json_is_read_or_refused(value: object) -> None:
    for given_value in (value, {"prompt": value}, {"prompt": "x", "stop": value, "seed": value}):
        with contextlib.suppress(InvalidInputError):
            assert read_ask(json.dumps(given_value).encode(), DEFAULTS).prompt


def test_bytes_that_are_no_json_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="not JSON"):
        read_ask(b"\xff", DEFAULTS)


def test_a_seed_of_ones_own_is_used() -> None:
    assert ask({"prompt": "x", "seed": 5}).sampling(8) == Sampling(0.7, 0, 1.0, 5)
    assert ask("x").sampling(8) == Sampling(0.7, 0, 1.0, 8)


def test_the_hash_is_as_documented_and_rolls() -> None:
    first = hashlib.sha256(b" 512").hexdigest()[:16]
    second = hashlib.sha256(f"{first} 11".encode()).hexdigest()[:16]
    assert rolling_hash("", [512, 11]) == second == rolling_hash(rolling_hash("", [512]), [11])
    assert rolling_hash("", []) == ""


def test_a_completion_as_its_answer_tells_it() -> None:
    completion = Completion(4, (5, 6), " é", "ab", "stop", 3)
    told = json.loads(completion_body(completion))
    assert told == {
        "text": " é",
        "tokens": [5, 6],
        "take": 4,
        "hash": "ab",
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 3, "completion_tokens": 2},
    }
    assert read_completion(Answer(told)) == completion
    assert read_completion(Answer(told, fallback=True)) == replace(completion, fallback=True)
    rubbish: object
    for rubbish in (None, [], {}, told | {"usage": 3}, told | {"take": "x"}):
        with pytest.raises(RequestError, match="no generation's"):
            read_completion(Answer(rubbish))


def test_a_partial_comes_back_as_it_was() -> None:
    partial = Partial(4, 2, (5, 6), " \ud83d é", "ab")
    payload = partial_answer("q", partial)
    assert json.loads(payload)["id"] == "q"
    assert "fallback" not in json.loads(payload)
    assert read_partial(payload) == partial
    marked = replace(partial, fallback=True)
    assert json.loads(partial_answer("q", marked))["fallback"] is True
    assert read_partial(partial_answer("q", marked)) == marked


@pytest.mark.parametrize(
    "payload", [b"", b"\xff", b"[]", b'{"status": "ok"}', b'{"status": "partial", "take": "x"}']
)
def test_what_is_no_partial_is_told_from_one(payload: bytes) -> None:
    assert read_partial(payload) is None
