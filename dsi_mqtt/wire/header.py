"""Headers of activations: msgpack maps, read by hand because they pass for every hop.

Each message is sealed: `xxh3`, the first key, is the checksum of everything else in it, header
and raw bytes. It shows damage, not forgery.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import msgpack
import xxhash

from dsi_mqtt.core.activation import Row
from dsi_mqtt.core.message import (
    KINDS,
    VERSION,
    Credit,
    EdgeMark,
    Failure,
    Header,
    HopStamp,
)
from dsi_mqtt.core.table import Stamp
from dsi_mqtt.errors import WireError

HEADER_MAX: Final = 64 * 1024
REQUEST_ID_BYTES: Final = 16
_PEEK: Final = 2048
_SEAL: Final = msgpack.packb("xxh3") + b"\xcf"  # before the eight bytes of an unsigned integer
_SEAL_BYTES: Final = 8
_SEAL_BY: Final = 3 + len(_SEAL)  # behind the longest beginning of a map

Fields = dict[str, Any]
T = TypeVar("T")


def identity(header: Header) -> Fields:
    """What every chunk carries: whose it is."""
    fields: Fields = {
        "v": VERSION,
        "kind": header.kind,
        "deployment": header.deployment,
        "term": header.stamp.term,
        "leader": header.stamp.leader,
        "epoch": header.stamp.epoch,
        "from": header.source,
        "to": header.target,
        "request": header.request,
        "attempt": header.attempt,
    }
    if header.edge is not None:
        mark = header.edge
        fields["edge"] = (mark.sender, mark.receiver, mark.sent_bytes, mark.sent_messages)
    return fields


def details(header: Header) -> Fields:
    """What only the first chunk carries."""
    fields: Fields = {"door": header.door}
    if header.rows:
        fields["rows"] = [
            {"session": r.session, "position": r.position, "tokens": r.tokens, "take": r.take}
            for r in header.rows
        ]
    if header.budget_ms is not None:
        fields["budget_ms"] = header.budget_ms
    if header.trace is not None:
        fields["trace"] = header.trace
    if header.stamps:
        fields["stamps"] = [
            {
                "segment": s.segment,
                "queue_us": s.queue_us,
                "compute_us": s.compute_us,
                "codec_us": s.codec_us,
            }
            for s in header.stamps
        ]
    if header.credit is not None:
        credit = header.credit
        fields["credit"] = {
            "sender": credit.sender,
            "receiver": credit.receiver,
            "bytes": credit.nbytes,
            "messages": credit.messages,
            "probe": credit.probe,
        }
    if header.failure is not None:
        fields["error"] = {"code": header.failure.code, "message": header.failure.message}
    return fields


def sealed(fields: Fields, raw: memoryview) -> bytes:
    """The packed header of a message whose raw bytes are `raw`."""
    packed: bytes = msgpack.packb({"xxh3": (1 << 64) - 1} | fields)
    at = packed.index(_SEAL) + len(_SEAL)
    before, after = packed[:at], packed[at + _SEAL_BYTES :]
    return b"".join((before, _checksum(before, after, raw), after))


def is_sound(payload: bytes | memoryview) -> bool:
    """Whether a message is as it was sealed."""
    view = memoryview(payload)
    at = bytes(view[:_SEAL_BY]).find(_SEAL) + len(_SEAL)
    end = at + _SEAL_BYTES
    return at >= len(_SEAL) and _checksum(view[:at], view[end:]) == view[at:end]


def _checksum(*parts: bytes | memoryview) -> bytes:
    checksum = xxhash.xxh3_64()
    for part in parts:
        checksum.update(part)
    digest: bytes = checksum.digest()
    return digest


def decode(payload: bytes | memoryview) -> tuple[Fields, memoryview]:
    """One message as its header fields and its raw bytes.

    Raises WireError on anything that is not a header of this version.
    """
    view = memoryview(payload)
    fields, size = _unpack(view[:_PEEK], complete=len(view) <= _PEEK)
    if fields is None:
        fields, size = _unpack(view[:HEADER_MAX], complete=True)
    if not isinstance(fields, dict):
        raise WireError("activation header is not a msgpack map; the message is refused")
    version, kind = fields.get("v"), fields.get("kind")
    if version != VERSION:
        raise WireError(
            f"activation header has version {shown(version)}, this program speaks {VERSION}; "
            "update the older side"
        )
    if not isinstance(kind, str) or kind not in KINDS:
        raise WireError(f"activation header has the unknown kind {shown(kind)}")
    return fields, view[size:]


def _unpack(data: memoryview, *, complete: bool) -> tuple[Any, int]:
    unpacker = msgpack.Unpacker(
        max_buffer_size=HEADER_MAX, max_array_len=8192, max_map_len=256, use_list=True
    )
    unpacker.feed(data)
    try:
        return unpacker.unpack(), unpacker.tell()
    except msgpack.OutOfData:
        if not complete:
            return None, 0
        raise WireError(f"activation header is cut short or over {HEADER_MAX} bytes") from None
    except (ValueError, msgpack.exceptions.UnpackException, RecursionError) as error:
        raise WireError(f"activation header cannot be read: {error}") from None


def header_of(fields: Fields) -> Header:
    """The typed header. Raises WireError naming what is missing or has the wrong type."""
    try:
        return Header(
            fields["kind"],
            text(fields["deployment"]),
            Stamp(count(fields["term"]), text(fields["leader"]), count(fields["epoch"])),
            text(fields["from"]),
            text(fields["to"]),
            request_id(fields["request"]),
            count(fields["attempt"]),
            text(fields.get("door", "")),
            tuple(map(_row, fields.get("rows", ()))),
            _optional(fields, "budget_ms", count),
            _optional(fields, "trace", text),
            tuple(map(_hop_stamp, fields.get("stamps", ()))),
            _optional(fields, "edge", _edge_mark),
            _optional(fields, "credit", _credit),
            _optional(fields, "error", _failure),
        )
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise WireError(f"activation header field is missing or wrong: {error}") from None


def _optional(fields: Fields, name: str, read: Callable[[Any], T]) -> T | None:
    value = fields.get(name)
    return None if value is None else read(value)


def _row(given: Fields) -> Row:
    return Row(
        text(given["session"]),
        count(given["position"]),
        count(given["tokens"]),
        count(given.get("take", 0)),
    )


def _hop_stamp(given: Fields) -> HopStamp:
    return HopStamp(
        text(given["segment"]),
        count(given["queue_us"]),
        count(given["compute_us"]),
        count(given["codec_us"]),
    )


def _edge_mark(given: Sequence[object]) -> EdgeMark:
    return EdgeMark(text(given[0]), text(given[1]), count(given[2]), count(given[3]))


def _credit(given: Fields) -> Credit:
    return Credit(
        text(given["sender"]),
        text(given["receiver"]),
        count(given["bytes"]),
        count(given["messages"]),
        bool(given.get("probe", False)),
    )


def _failure(given: Fields) -> Failure:
    return Failure(text(given["code"]), text(given["message"]))


def text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text expected, got {type(value).__name__}")
    return value


def count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError(f"a count expected, got {shown(value)}")
    return value


def shown(value: object) -> str:
    """A received value for an error; what is nested is named only, for it may nest deeply."""
    if isinstance(value, str | bytes | int | float | None):
        return f"{value!r:.40}"
    return f"a {type(value).__name__}"


def request_id(value: object) -> bytes:
    if not isinstance(value, bytes) or len(value) != REQUEST_ID_BYTES:
        raise TypeError(f"request must be {REQUEST_ID_BYTES} bytes")
    return value
