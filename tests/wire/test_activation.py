"""Activations on the wire: what goes in comes out."""

from __future__ import annotations

import xxhash
from hypothesis import given
from hypothesis import strategies as st

from dsi_mqtt.core.activation import Row, Tensor
from dsi_mqtt.core.message import (
    Activation,
    Header,
    HopStamp,
)
from dsi_mqtt.core.table import Stamp
from dsi_mqtt.wire.activation import Assembler, encode
from tests.wire.activations import (
    ACTIVATIONS,
    activation_of,
    feed,
    plain,
    put_together,
    taken_apart,
)


@given(ACTIVATIONS, st.integers(1, 64))
def test_round_trip(activation: Activation, chunk_bytes: int) -> None:
    assembler = Assembler()
    messages = list(encode(activation, chunk_bytes=chunk_bytes))
    *before, last = [assembler.feed(message, 0.0) for message in messages]
    assert before == [None] * (len(messages) - 1)
    assert last is not None
    assert plain(last) == activation
    assert assembler.clear() == []


@given(st.lists(st.integers(0, 400), min_size=2, max_size=5), st.randoms(use_true_random=False))
def test_activations_of_several_senders_may_interleave(
    sizes: list[int], random: st.DataObject
) -> None:
    sent = [activation_of(size, sender=f"node-{i}") for i, size in enumerate(sizes)]
    streams = [list(encode(activation, chunk_bytes=64)) for activation in sent]
    mixed = []
    while any(streams):
        mixed.append(random.choice([s for s in streams if s]).pop(0))  # type: ignore[attr-defined]
    found, refused = feed(Assembler(), mixed)
    assert refused == 0
    assert sorted(found, key=lambda a: a.header.edge.sender if a.header.edge else "") == sent


def test_a_large_header_is_read_beyond_the_first_look() -> None:
    rows = tuple(Row(f"session-{i}", i, 1) for i in range(200))
    header = Header("decode", "d", Stamp(1, "n", 1), "s0", "s1", rows=rows)
    found, refused = feed(Assembler(), encode(Activation(header)))
    assert (found, refused) == ([Activation(header)], 0)


def test_the_first_message_has_the_fields_of_the_contract_and_the_others_only_who_they_are() -> (
    None
):
    header = Header(
        "prefill",
        "chat",
        Stamp(3, "9d21", 17),
        "s0",
        "s1",
        bytes(range(16)),
        2,
        door="cell-1",
        rows=(Row("session", 4, 2, 1),),
        budget_ms=900,
        trace="00-ab-cd-01",
        stamps=(HopStamp("s0", 1, 2, 3),),
    )
    data = bytes(range(24))
    activation = Activation(header, (Tensor("hidden_states", "float32", (1, 6), data),))
    messages = list(encode(activation, chunk_bytes=16))
    first, second = [taken_apart(message)[0] for message in messages]
    who = {
        "v": 1,
        "kind": "prefill",
        "deployment": "chat",
        "term": 3,
        "leader": "9d21",
        "epoch": 17,
        "from": "s0",
        "to": "s1",
        "request": bytes(range(16)),
        "attempt": 2,
    }
    assert second == who | {"chunk": {"i": 1, "n": 2, "offset": 16, "total": 24}}
    assert first == who | {
        "door": "cell-1",
        "rows": [{"session": "session", "position": 4, "tokens": 2, "take": 1}],
        "budget_ms": 900,
        "trace": "00-ab-cd-01",
        "stamps": [{"segment": "s0", "queue_us": 1, "compute_us": 2, "codec_us": 3}],
        "tensors": [
            {
                "name": "hidden_states",
                "dtype": "float32",
                "shape": [1, 6],
                "codec": "raw",
                "offset": 0,
                "nbytes": 24,
            }
        ],
        "chunk": {"i": 0, "n": 2, "offset": 0, "total": 24},
    }


def test_the_seal_is_the_checksum_of_everything_else_in_the_message() -> None:
    (message,) = encode(activation_of(10))
    at = message.index(b"\xa4xxh3\xcf") + 6
    everything_else = message[:at] + message[at + 8 :]
    assert message[at : at + 8] == xxhash.xxh3_64_digest(everything_else)


def test_keys_that_are_not_known_yet_change_nothing() -> None:
    activation = activation_of(10)
    fields, raw = taken_apart(next(encode(activation)))
    message = put_together(fields | {"later": {"a": [1, 2]}}, raw)
    assert feed(Assembler(), [message]) == ([activation], 0)
