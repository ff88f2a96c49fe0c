"""What an OpenAI client may send: read, or refused by the name of what is at fault."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsi_mqtt.core.deployment import Generation
from dsi_mqtt.gateway.asks import (
    INPUTS_MAX,
    Wanted,
    WantedEmbeddings,
    model_of,
    read_body,
    read_chat,
    read_completion,
    read_embeddings,
)
from dsi_mqtt.gateway.refusals import ApiError

DEFAULTS = Generation(context=100)
HI = {"role": "user", "content": "Hi"}


def chat(**changes: Any) -> Wanted:
    return read_chat({"model": "m", "messages": [HI]} | changes, DEFAULTS)


def completion(**changes: Any) -> Wanted:
    return read_completion({"model": "m", "prompt": "x"} | changes, DEFAULTS)


def embeddings(**changes: Any) -> WantedEmbeddings:
    return read_embeddings({"model": "m", "input": "x"} | changes)


def test_nothing_but_a_prompt_is_as_the_deployment_has_it() -> None:
    assert chat() == Wanted([HI], {}, stream=False, include_usage=False)
    assert completion() == Wanted("x", {}, stream=False, include_usage=False)
    assert embeddings() == WantedEmbeddings(["x"], base64=False)


def test_what_changes_nothing_is_let_pass() -> None:
    neutral: dict[str, Any] = {
        "n": 1,
        "frequency_penalty": 0.0,
        "presence_penalty": 0,
        "logit_bias": {},
        "store": False,
        "user": "u",
        "metadata": {"a": "b"},
        "service_tier": "auto",
        "seed": None,
        "stop": None,
    }
    of_chat = {
        "tools": [],
        "tool_choice": "none",
        "logprobs": False,
        "response_format": {"type": "text"},
        "modalities": ["text"],
        "audio": None,
        "prediction": None,
    }
    assert chat(**neutral, **of_chat) == chat()
    assert completion(**neutral, best_of=1, echo=False, suffix=None, logprobs=None) == completion()


def test_the_newer_name_of_the_limit_goes_before_the_older() -> None:
    assert chat(max_completion_tokens=5, max_tokens=9).settings == {"max_tokens": 5}
    assert chat(max_tokens=9).settings == {"max_tokens": 9}


def test_a_prompt_may_stand_in_a_list_by_itself() -> None:
    assert completion(prompt=["x"]).prompt == "x"
    assert completion(prompt=[[1, 2]]).prompt == [1, 2]
    assert completion(prompt=[1, 2]).prompt == [1, 2]


@pytest.mark.parametrize(
    ("read", "changes", "param", "told"),
    [
        (chat, {"n": 2}, "n", "'n' is not supported; leave it out, or give 1"),
        (chat, {"logprobs": True}, "logprobs", "not supported"),
        (chat, {"tools": [{"type": "function"}]}, "tools", "not supported"),
        (chat, {"response_format": {"type": "json_object"}}, "response_format", "not supported"),
        (chat, {"presence_penalty": 0.5}, "presence_penalty", "not supported"),
        (chat, {"logit_bias": {"5": 1}}, "logit_bias", "not supported"),
        (chat, {"audio": {}}, "audio", "is not supported; leave it out"),
        (chat, {"tempreature": 1}, "tempreature", "unknown"),
        (chat, {"prompt": "x"}, "prompt", "unknown"),
        (chat, {"messages": []}, "messages", "at least one"),
        (chat, {"messages": "Hi"}, "messages", "at least one"),
        (chat, {"messages": ["Hi"]}, "messages.0", "an object"),
        (chat, {"messages": [HI, HI | {"role": "tool"}]}, "messages.1.role", "one of"),
        (chat, {"messages": [HI | {"role": []}]}, "messages.0.role", "one of"),
        (chat, {"messages": [HI | {"content": None}]}, "messages.0.content", "a text"),
        (chat, {"messages": [HI | {"content": []}]}, "messages.0.content", "a text"),
        (
            chat,
            {"messages": [HI | {"content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages.0.content",
            "'image_url'; only text",
        ),
        (chat, {"messages": [HI | {"tool_calls": [{}]}]}, "messages.0.tool_calls", "supported"),
        (chat, {"max_completion_tokens": 101}, "max_tokens", "from 1 to 100"),
        (chat, {"temperature": "hot"}, "temperature", "a number"),
        (chat, {"top_p": 0}, "top_p", "above 0"),
        (chat, {"stop": ["x"] * 9}, "stop", "up to 8"),
        (chat, {"seed": 1.5}, "seed", "whole number"),
        (chat, {"stream": "yes"}, "stream", "true or false"),
        (chat, {"stream_options": {}}, "stream_options", "stream=true only"),
        (chat, {"stream": True, "stream_options": {"x": 1}}, "stream_options", "include_usage"),
        (chat, {"stream": True, "stream_options": 7}, "stream_options", "include_usage"),
        (completion, {"prompt": ["a", "b"]}, "prompt", "one prompt"),
        (completion, {"prompt": []}, "prompt", "list of token ids"),
        (completion, {"prompt": ""}, "prompt", "not empty"),
        (completion, {"prompt": None}, None, "either prompt or messages"),
        (completion, {"prompt": [-1]}, "prompt", "list of token ids"),
        (completion, {"echo": True}, "echo", "not supported"),
        (completion, {"logprobs": 0}, "logprobs", "not supported"),
        (completion, {"suffix": "y"}, "suffix", "not supported"),
        (embeddings, {"input": []}, "input", f"1 to {INPUTS_MAX}"),
        (embeddings, {"input": ["x"] * (INPUTS_MAX + 1)}, "input", f"1 to {INPUTS_MAX}"),
        (embeddings, {"input": None}, "input", "must be a text"),
        (embeddings, {"input": [1, 2]}, "input", "token ids are not served"),
        (embeddings, {"input": ["x", ""]}, "input", "not empty"),
        (embeddings, {"encoding_format": "int8"}, "encoding_format", "float or base64"),
        (embeddings, {"dimensions": 5}, "dimensions", "not supported"),
    ],
)
def test_what_is_wrong_is_named(read: Any, changes: Any, param: str | None, told: str) -> None:
    with pytest.raises(ApiError, match=told) as raised:
        read(**changes)
    assert (raised.value.status, raised.value.param) == (400, param)
    assert raised.value.body["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("payload", [b"", b"[]", b"\xff", b"{", b"7"])
def test_a_body_is_a_json_object(payload: bytes) -> None:
    with pytest.raises(ApiError, match="the body"):
        read_body(payload)


@pytest.mark.parametrize("body", [{}, {"model": ""}, {"model": 7}])
def test_a_model_is_named(body: dict[str, Any]) -> None:
    with pytest.raises(ApiError, match="model must be"):
        model_of(body)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "type", "text"]), inner)
    ),
    max_leaves=6,
)
NAMES = st.sampled_from(
    [
        *("model", "messages", "prompt", "input", "stream", "stream_options", "seed", "stop"),
        *("n", "tools", "logprobs", "user", "max_tokens", "temperature", "encoding_format", "?"),
    ]
)


@given(st.dictionaries(NAMES, ANYTHING, max_size=6))
def test_any_body_is_read_or_refused(body: dict[str, Any]) -> None:
    given_body = read_body(json.dumps(body).encode())
    for read in (chat, completion, embeddings):
        with contextlib.suppress(ApiError):
            read(**given_body)
