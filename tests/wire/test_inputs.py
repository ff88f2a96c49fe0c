"""What devices send and get, also what they should not send."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsi_mqtt.core.message import RETRY_AFTER_MAX_S, Failure
from dsi_mqtt.core.request import Answer, ParsedInput
from dsi_mqtt.errors import REQUEST_ERRORS, InvalidInputError, OverloadedError, RequestError
from dsi_mqtt.wire.inputs import (
    FALLBACK,
    answer_error,
    answer_ok,
    parse_input,
    read_answer,
)
from tests.thoroughness import examples

TEXT = st.text(max_size=20)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
)


@given(VALUES)
def test_any_json_value_is_an_input(value: Any) -> None:
    parsed = parse_input(json.dumps({"input": value, "id": "a"}).encode(), None)
    assert (parsed.identity, parsed.content_type, parsed.complaint) == (
        "a",
        "application/json",
        None,
    )
    assert json.loads(parsed.body) == value


@given(VALUES, st.none() | TEXT)
def test_a_result_comes_back_as_it_was_made(value: Any, identity: str | None) -> None:
    answer = answer_ok(identity, json.dumps(value).encode())
    assert json.loads(answer) == {"id": identity, "status": "ok", "result": value}
    assert read_answer(answer).result == value


@pytest.mark.parametrize(
    "kind",
    ["application/json", "Application/JSON; charset=utf-8", " application/json ", "", ";", None],
)
def test_json_is_assumed_and_recognised(kind: str | None) -> None:
    assert parse_input(b'{"input": 1}', kind) == ParsedInput(None, "application/json", b"1")


@pytest.mark.parametrize("kind", ["text/plain", "image/jpeg", "application/x-npy"])
def test_other_content_is_taken_as_it_is(kind: str) -> None:
    assert parse_input(b"\xff\x00{", f"{kind.upper()}; a=b") == ParsedInput(
        None, kind, b"\xff\x00{"
    )


@pytest.mark.parametrize("kind", ["x" * 129, "text/plaïn"])
def test_a_content_type_that_cannot_be_one_is_refused(kind: str) -> None:
    with pytest.raises(InvalidInputError, match="Content Type"):
        parse_input(b"x", kind)


@pytest.mark.parametrize(("given", "identity"), [("7", "7"), (7, "7"), (-1, "-1"), (None, None)])
def test_an_id_is_text_and_whole_numbers_become_it(given: object, identity: str | None) -> None:
    payload = json.dumps({"input": 1, "id": given}).encode()
    assert parse_input(payload, None).identity == identity


@pytest.mark.parametrize("given", ["", "x" * 129, True, 1.5, [], {}, 10**200, "\ud800"])
def test_what_is_no_id_is_refused(given: object) -> None:
    with pytest.raises(InvalidInputError, match="id must be text of 1 to 128"):
        parse_input(json.dumps({"input": 1, "id": given}).encode(), None)


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b'{"id": "a"}', "field input is missing; send"),
        (b'{"id": "a", "input": 1e999}', "a number or a depth that JSON cannot carry"),
        (b'{"id": "a", "input": [{"x": -1e999}]}', "a number or a depth"),
    ],
)
def test_a_complaint_keeps_the_id_so_that_the_answer_can_name_it(payload: bytes, said: str) -> None:
    parsed = parse_input(payload, None)
    assert (parsed.identity, parsed.body) == ("a", b"")
    assert parsed.complaint is not None
    assert said in parsed.complaint


@pytest.mark.parametrize(
    ("payload", "identity", "body"),
    [
        (b"[1]", None, [1]),
        (b'"x"', None, "x"),
        (b"1", None, 1),
        (b"null", None, None),
        (b'{"text": "x"}', None, {"text": "x"}),
        (b'{"id": "a", "text": "x"}', "a", {"text": "x"}),
        (b'{"id": "a", "input": {"id": 1}, "other": 2}', "a", {"id": 1}),
    ],
)
def test_json_without_an_envelope_is_the_input_itself(
    payload: bytes, identity: str | None, body: object
) -> None:
    parsed = parse_input(payload, None)
    assert (parsed.identity, parsed.complaint) == (identity, None)
    assert json.loads(parsed.body) == body


@pytest.mark.parametrize(
    ("payload", "kind", "properties", "priority"),
    [
        (b'{"input": 1}', None, (), "normal"),
        (b'{"input": 1, "priority": "low"}', None, (), "low"),
        (b'{"input": 1, "priority": "low"}', None, (("priority", "high"),), "high"),
        (b'{"priority": "low", "text": "x"}', None, (), "normal"),
        (b"x", "text/plain", (("a", "low"), ("priority", "low"), ("priority", "x")), "low"),
        (b"1", None, (("priority", "high"),), "high"),
    ],
)
def test_a_priority_stands_beside_the_input(
    payload: bytes, kind: str | None, properties: tuple[tuple[str, str], ...], priority: str
) -> None:
    parsed = parse_input(payload, kind, properties)
    assert (parsed.priority, parsed.complaint) == (priority, None)


@pytest.mark.parametrize("given", [b'"urgent"', b"1", b'["low"]', b'{"low": 1}'])
def test_a_priority_that_is_none_is_a_complaint(given: bytes) -> None:
    parsed = parse_input(b'{"id": "a", "input": 1, "priority": %b}' % given, None)
    assert parsed.identity == "a"
    assert parsed.complaint is not None
    assert "none of low, normal, high" in parsed.complaint


def test_a_result_of_the_fallback_is_marked_and_read_like_any_other() -> None:
    answer = answer_ok("a", b"[1]", fallback=True)
    assert json.loads(answer) == {"id": "a", "status": "ok", "fallback": True, "result": [1]}
    assert read_answer(answer) == Answer([1], fallback=True)
    assert read_answer(answer_ok("a", b"[1]")) == Answer([1])


def test_a_result_that_is_no_json_is_marked_beside_it() -> None:
    plain = read_answer(b"cat", "text/plain", [("status", "ok")])
    marked = read_answer(b"cat", "text/plain", [("status", "ok"), FALLBACK])
    assert (plain, marked) == (Answer(b"cat"), Answer(b"cat", fallback=True))


def test_a_refusal_says_when_to_try_again() -> None:
    told = answer_error("a", Failure("overloaded", "too many", 7))
    assert json.loads(told)["error"] == {
        "code": "overloaded",
        "message": "too many",
        "retry_after_s": 7,
    }
    with pytest.raises(OverloadedError) as refused:
        read_answer(told)
    assert refused.value.retry_after_s == 7
    with pytest.raises(OverloadedError) as plain:
        read_answer(answer_error("a", Failure("overloaded", "too many")))
    assert plain.value.retry_after_s is None


@pytest.mark.parametrize("after", [b'"soon"', b"[]", b"1e999", b"-5", b"1e300"])
def test_another_time_than_a_number_of_seconds_is_no_time(after: bytes) -> None:
    payload = b'{"status": "error", "error": {"code": "x", "message": "m", "retry_after_s": %b}}'
    with pytest.raises(RequestError) as refused:
        read_answer(payload % after)
    assert refused.value.retry_after_s in (None, RETRY_AFTER_MAX_S)


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"hello", "not JSON"),
        (b"\xff\xfe\xfd", "not JSON"),
        (b'{"input": NaN}', "NaN is no JSON number"),
        (b'{"input": -Infinity}', "-Infinity is no JSON number"),
        (b'{"input": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"input":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not JSON"),
    ],
)
def test_what_is_no_json_is_refused_with_advice(payload: bytes, said: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        parse_input(payload, None)
    assert said in str(refused.value)
    assert len(str(refused.value)) <= 200
    assert refused.value.code == "invalid_input"


@given(st.binary(max_size=60) | VALUES.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=examples(300))
def test_no_payload_raises_anything_else(payload: bytes) -> None:
    try:
        parsed = parse_input(payload, None)
    except InvalidInputError:
        return
    given = json.loads(payload)
    if isinstance(given, dict):
        given.pop("id", None)
        given = given.get("input", given)
    assert parsed.complaint or json.loads(parsed.body) == given


@pytest.mark.parametrize("code", sorted(REQUEST_ERRORS))
def test_an_error_answer_raises_what_it_stands_for(code: str) -> None:
    answer = answer_error("a", Failure(code, "a reason"))
    assert json.loads(answer) == {
        "id": "a",
        "status": "error",
        "error": {"code": code, "message": "a reason"},
    }
    with pytest.raises(REQUEST_ERRORS[code], match="a reason") as raised:
        read_answer(answer)
    assert raised.value.code == code


def test_a_code_of_a_newer_side_is_still_an_error() -> None:
    with pytest.raises(RequestError, match="too warm"):
        read_answer(answer_error(None, Failure("overheated", "too warm")))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"[]",
        b'"ok"',
        b"{}",
        b'{"status":"ok"}',
        b'{"status":"error"}',
        b'{"status":"error","error":[]}',
        b'{"status":"error","error":{"code":"failed"}}',
        b"[" * 100_000,
    ],
)
def test_an_answer_that_cannot_be_read_is_an_error_too(payload: bytes) -> None:
    with pytest.raises(RequestError, match="cannot be read"):
        read_answer(payload)


def test_a_result_that_is_no_json_is_read_as_bytes() -> None:
    assert read_answer(b"\x89PNG", "image/png") == Answer(b"\x89PNG")
