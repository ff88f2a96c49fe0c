"""Control messages: the core's own dataclasses as JSON, and back."""

from __future__ import annotations

import json
import types
from dataclasses import fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.core.node import HoldingReport, Leader, NodeStatus
from dsi_mqtt.core.table import Hop, Stamp, Table, TableDocument, Transfer
from dsi_mqtt.errors import TooLargeError, WireError
from dsi_mqtt.wire.control import Codec
from dsi_mqtt.wire.topics import Topics
from tests.thoroughness import examples

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=3,
)
PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXT,
    int: st.integers(0, 2**63),
    bool: st.booleans(),
    float: st.floats(allow_nan=False, allow_infinity=False),
    type(None): st.none(),
    Any: JSON_VALUES,
}


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Any value that the annotation `kind` allows, from the dataclasses themselves."""
    if kind in PLAIN:
        return PLAIN[kind]
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (Union, types.UnionType):
        return st.one_of([values(argument) for argument in arguments])
    if origin is tuple and arguments[-1] is Ellipsis:
        return st.lists(values(arguments[0]), max_size=2).map(tuple)
    if origin is dict:
        return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=2)
    hints = get_type_hints(kind)
    names = [f.name for f in fields(kind)] if is_dataclass(kind) else kind._fields
    return st.builds(kind, **{name: values(hints[name]) for name in names})


TOPICS = {name: topic.codec for name, topic in Topics().all().items() if topic.codec is not None}
# Their shapes alone: figures that are out of range are those of tests/wire/test_ranges.py.
CODECS = {name: Codec(codec.kind) for name, codec in TOPICS.items()}
every_message = pytest.mark.parametrize("name", sorted(CODECS))

# One document as docs/topics.md shows it, with every field that a table can have.
TABLE = """
{"deployment":"chat","term":3,"leader":"9d21","epoch":17,"state":"serving","reason":null,
 "decision":"d-41","model":{"digest":"sha256:ab12","units":26,"tier":"layer","fallback":false},
 "door":{"node":"cell-1","incarnation":"8f3c","ingress":"mqtt://10.0.0.1:1883",
         "session":"chat-5f0c9e","window":16,"orphaned":false},
 "segments":[
  {"id":"s0","units":[0,2],"dtype":"float32","standbys":[],
   "replicas":[{"node":"cell-1","incarnation":"8f3c","weight":1.0}]},
  {"id":"s1","units":[2,25],"dtype":"float32","standbys":[],
   "replicas":[{"node":"hall-gw","incarnation":"11aa","weight":0.5},
               {"node":"hall-gw2","incarnation":"72de","weight":0.5}]},
  {"id":"s2","units":[25,26],"dtype":"float32",
   "replicas":[{"node":"cell-1","incarnation":"8f3c","weight":1.0}],
   "standbys":[{"node":"cell-2","incarnation":"90ab","level":"warm"}]}],
 "hops":[{"from":"s0","to":"s1","codec":{"prefill":"int8g32","decode":"raw"},
          "credit_bytes":8388608,"credit_messages":8}],
 "brokers":{"cell-1":{"control":"mqtt://10.0.0.1:1883","data":"mqtt://10.0.0.1:1884"}},
 "transfers":[{"units":[2,4],"from":{"epoch":16,"segment":"s0"},
               "to":{"epoch":17,"segment":"s1"},"mode":"copy"}],
 "forecast":{"p50_ms":900.0,"p95_ms":1400.0,"rate_per_s":0.5,"token_p50_ms":90.0,"token_p95_ms":120.0},
 "gone":[["hall-gw3","07c2"]]}
"""


@every_message
@given(data=st.data())
@settings(max_examples=examples(40))
def test_round_trip(name: str, data: st.DataObject) -> None:
    codec = CODECS[name]
    value = data.draw(values(codec.kind))
    assert codec.decode(codec.encode(value)) == value


@every_message
@given(data=st.data())
@settings(max_examples=examples(20))
def test_keys_that_are_not_known_yet_are_ignored(name: str, data: st.DataObject) -> None:
    codec = CODECS[name]
    value = data.draw(values(codec.kind))
    newer = _with_more(json.loads(codec.encode(value)), codec.kind)
    assert codec.decode(json.dumps(newer).encode()) == value


def _with_more(document: Any, kind: Any) -> Any:
    """The same from a program that knows more fields, at every depth."""
    arguments = get_args(kind)
    if get_origin(kind) in (Union, types.UnionType):
        inner = [a for a in arguments if a is not type(None)]
        return document if document is None else _with_more(document, inner[0])
    if get_origin(kind) is tuple:
        return [_with_more(item, arguments[0]) for item in document]
    if get_origin(kind) is dict:
        return {key: _with_more(item, arguments[1]) for key, item in document.items()}
    if not is_dataclass(kind):
        return document
    hints = get_type_hints(kind)
    names = {"from": "source", "to": "target"}
    more = {k: _with_more(v, hints[names.get(k, k)]) for k, v in document.items()}
    return more | {"since_version_2": [1, {"a": None}]}


def test_the_table_has_exactly_the_names_and_shapes_of_the_contract() -> None:
    codec = Codec(TableDocument)
    document = {"schema": 1, "serve": json.loads(TABLE), "prepare": None, "refused": None}
    decoded = codec.decode(json.dumps(document).encode())
    assert json.loads(codec.encode(decoded)) == document
    assert decoded.serve is not None
    assert decoded.serve.stamp == Stamp(3, "9d21", 17)
    assert decoded.serve.segments[1].units == UnitRange(2, 25)
    assert decoded.serve.hops[0] == Hop(
        "s0", "s1", {"prefill": "int8g32", "decode": "raw"}, 8388608, 8
    )
    assert isinstance(decoded.serve.transfers[0], Transfer)
    assert decoded.serve.transfers[0].source.epoch == 16


def test_a_small_table_has_every_field_too() -> None:
    table = Table("d", 1, "n", 1, "unavailable", "why", "d-1", None, None)
    written = json.loads(Codec(TableDocument).encode(TableDocument(table)))
    assert written["serve"].keys() == json.loads(TABLE).keys()
    assert (written["schema"], written["prepare"]) == (1, None)


def test_the_python_names_of_from_and_to_are_not_taken() -> None:
    hop = {"source": "s0", "target": "s1", "codec": {}, "credit_bytes": 1, "credit_messages": 1}
    table = json.loads(TABLE) | {"hops": [hop]}
    payload = json.dumps({"schema": 1, "serve": table, "prepare": None}).encode()
    with pytest.raises(WireError, match=r"serve\.hops\[0\]\.from"):
        Codec(TableDocument).decode(payload)


# --- what is not a message --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "complaint"),
    [
        (b"", "Leader"),
        (b"{", "Leader"),
        (b"null", "Leader"),
        (b"[]", "Leader"),
        (b'{"term":1,"nonce":"a","beat":1},{}', "Leader"),
        (b'{"term":1,"nonce":"a","beat":1}]', "Leader"),
        (b'{"nonce":"a","beat":1}', "Leader: term"),
        (b'{"term":"x","nonce":"a","beat":1}', "Leader: term"),
        (b'{"term":1.5,"nonce":"a","beat":1}', "Leader: term"),
        (b'{"term":1,"nonce":["a"],"beat":1}', "Leader: nonce"),
        (b'{"term":1,"nonce":"\xff","beat":1}', "Leader"),
        (b'{"term":1,"nonce":"a","beat":' + b"9" * 5000 + b"}", "Leader"),
        (b"[" * 100_000, "Leader"),
    ],
)
def test_what_is_wrong_is_named_in_one_sentence(payload: bytes, complaint: str) -> None:
    with pytest.raises(WireError) as refused:
        Codec(Leader).decode(payload)
    assert str(refused.value).startswith(complaint)
    assert len(str(refused.value)) <= 200


def test_a_field_deep_inside_is_named() -> None:
    status = NodeStatus(
        "a",
        "i",
        "online",
        holdings=(HoldingReport("d", Stamp(1, "n", 1), "s0", UnitRange(0, 1), "ready"),),
    )
    written = json.loads(Codec(NodeStatus).encode(status))
    written["holdings"][0]["units"] = [0, "many"]
    with pytest.raises(WireError, match=r"NodeStatus: holdings\[0\]\.units\[1\]"):
        Codec(NodeStatus).decode(json.dumps(written).encode())


@every_message
@given(st.binary(max_size=60) | JSON_VALUES.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=examples(60))
def test_anything_else_ends_in_a_wire_error(name: str, payload: bytes) -> None:
    try:
        value = TOPICS[name].decode(payload)
    except WireError:
        return
    # What is readable as this message can be written again.
    assert TOPICS[name].encode(value)


def test_the_limit_holds_in_both_directions() -> None:
    codec = Codec(Leader, limit=40)
    small, large = Leader(1, "a", 1), Leader(1, "a" * 40, 1)
    assert codec.decode(codec.encode(small)) == small
    with pytest.raises(TooLargeError, match="over 40"):
        codec.encode(large)
    with pytest.raises(TooLargeError, match="over 40"):
        codec.decode(Codec(Leader).encode(large))
