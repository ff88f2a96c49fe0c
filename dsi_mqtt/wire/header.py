"""Headers of activations: msgpack maps, read straight into types because they pass on every hop.

Two keys come first and have fixed widths, so that they are found before anything is read: `xxh3`,
the checksum of everything else in the message, header and raw bytes (it shows damage, not
forgery), and `size`, the bytes of the header, behind which the raw bytes begin.
"""

from __future__ import annotations

import struct
from dataclasses import astuple
from typing import Annotated, Any, Final

import msgspec
import xxhash

from dsi_mqtt.core.activation import Row
from dsi_mqtt.core.generation import Sampling
from dsi_mqtt.core.message import (
    VERSION,
    Copy,
    Credit,
    EdgeMark,
    Failure,
    Header,
    HopStamp,
    MessageKind,
    Passed,
    Priority,
)
from dsi_mqtt.core.model import UNITS_MAX, UnitRange
from dsi_mqtt.core.request import CORRELATION_MAX, DEVICE_MAX
from dsi_mqtt.core.sizes import KIB
from dsi_mqtt.core.table import Stamp
from dsi_mqtt.errors import WireError

HEADER_MAX: Final = 64 * KIB
REQUEST_ID_BYTES: Final = 16
# What the first two keys hold until they are known: each takes its widest form.
UNSEALED: Final = (1 << 64) - 1
UNSIZED: Final = (1 << 32) - 1

# Behind the map's own one or three bytes: key and value of `xxh3`, then of `size`.
_FRONT: Final = struct.Struct(">6s8s6sI")
_SEAL_KEY: Final = b"\xa4xxh3\xcf"
_SIZE_KEY: Final = b"\xa4size\xce"
_SEAL_AT: Final = len(_SEAL_KEY)
_SEAL_END: Final = _SEAL_AT + 8
_SMALL_MAP_END: Final = 0x90
_LARGE_MAP_BYTES: Final = 3

_NO_TENSORS: Final = msgspec.Raw(b"\x90")  # an empty array

TEMPERATURE_MAX: Final = 100.0
_COUNT_MAX: Final = 2**53
# Of a node, deployment, segment or incarnation: 64 at most where they are given.
NAME_MAX: Final = 128
_LEVEL: Final = frozenset("/+#\0")
Count = Annotated[int, msgspec.Meta(ge=0)]
# What names a text: nothing, or the first bytes of a digest.
TEXT_ID_MAX: Final = 16
TextId = Annotated[bytes, msgspec.Meta(max_length=TEXT_ID_MAX)]
RequestId = Annotated[bytes, msgspec.Meta(min_length=REQUEST_ID_BYTES, max_length=REQUEST_ID_BYTES)]


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """Place of one message in its activation: number `i` of `n`, its bytes at `offset`."""

    i: Count
    n: Count
    offset: Count
    total: Count


class TensorSpec(msgspec.Struct, frozen=True, gc=False):
    """A tensor as the header declares it: `nbytes` from `offset`, as its codec writes them."""

    name: str
    dtype: str
    shape: tuple[Count, ...]
    codec: str
    offset: Count
    nbytes: Count


class CreditFields(msgspec.Struct, gc=False):
    sender: str
    receiver: str
    bytes: Count
    messages: Count
    probe: bool = False


class CopyFields(msgspec.Struct, gc=False):
    units: tuple[Count, Count]
    term: Count
    leader: str
    epoch: Count
    segment: str


class PassedFields(msgspec.Struct, omit_defaults=True, gc=False):
    """See `core.message.Passed`."""

    device: str
    digest: str
    nbytes: Count
    identity: str | None = None
    correlation: bytes | None = None
    response_topic: str | None = None
    priority: Priority = "normal"
    expiry_s: Count | None = None
    deaths: Count | None = None


class Fields(
    msgspec.Struct,
    omit_defaults=True,
    rename={"source": "from", "target": "to", "failure": "error"},
):
    """A header as it stands on the wire. All chunks carry what has no default, and `edge`.

    tensors: still packed, for what is wrong in it is the fault of an attempt that can be named.
    """

    xxh3: int
    size: int
    v: int
    kind: MessageKind
    deployment: str
    term: Count
    leader: str
    epoch: Count
    source: str
    target: str
    request: RequestId
    attempt: Count
    chunk: Chunk
    edge: tuple[str, str, Count, Count] | None = None
    door: str = ""
    rows: tuple[Row, ...] = ()
    sampling: tuple[Sampling | None, ...] = ()
    budget_ms: Count | None = None
    trace: str | None = None
    stamps: tuple[HopStamp, ...] = ()
    credit: CreditFields | None = None
    failure: Failure | None = None
    tensors: msgspec.Raw = _NO_TENSORS
    lane: Count = 0
    copy: CopyFields | None = None
    passed: PassedFields | None = None
    recall: TextId = b""


class _Version(msgspec.Struct):
    v: int = VERSION


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Fields)
_version_decoder: Final = msgspec.msgpack.Decoder(_Version)
_tensors_decoder: Final = msgspec.msgpack.Decoder(tuple[TensorSpec, ...])


# --- writing ----------------------------------------------------------------------------------


def first_fields(header: Header, chunk: Chunk, specs: list[TensorSpec]) -> Fields:
    """What the first chunk carries: everything."""
    fields = next_fields(header, chunk)
    fields.door = header.door
    fields.rows = header.rows
    fields.sampling = header.sampling
    fields.budget_ms = header.budget_ms
    fields.trace = header.trace
    fields.stamps = header.stamps
    fields.failure = header.failure
    fields.lane = header.lane
    fields.recall = header.recall
    if header.copy is not None:
        copy = header.copy
        fields.copy = CopyFields(copy.units, *copy.stamp, copy.segment)
    if header.passed is not None:
        fields.passed = PassedFields(*astuple(header.passed))
    if header.credit is not None:
        credit = header.credit
        fields.credit = CreditFields(
            credit.sender, credit.receiver, credit.nbytes, credit.messages, credit.probe
        )
    if specs:
        fields.tensors = msgspec.Raw(_encoder.encode(specs))
    return fields


def next_fields(header: Header, chunk: Chunk) -> Fields:
    """What every later chunk carries: whose it is."""
    stamp, mark = header.stamp, header.edge
    return Fields(
        UNSEALED,
        UNSIZED,
        VERSION,
        header.kind,
        header.deployment,
        stamp.term,
        stamp.leader,
        stamp.epoch,
        header.source,
        header.target,
        header.request,
        header.attempt,
        chunk,
        None if mark is None else (mark.sender, mark.receiver, mark.sent_bytes, mark.sent_messages),
    )


def sealed(fields: Fields | dict[str, Any], raw: memoryview) -> bytearray:
    """The packed header of a message whose raw bytes are `raw`."""
    packed = bytearray(_encoder.encode(fields))
    start = _front_at(packed)
    at, end = start + _SEAL_AT, start + _SEAL_END
    _FRONT.pack_into(packed, start, _SEAL_KEY, bytes(8), _SIZE_KEY, len(packed))
    packed[at:end] = _checksum(packed[:at], packed[end:], raw)
    return packed


# --- reading ----------------------------------------------------------------------------------


def decode(payload: bytes | memoryview) -> tuple[Fields, memoryview]:
    """One message as its header fields and its raw bytes; whether it is damaged is not looked at.

    Raises WireError on anything that is not a header of this version.
    """
    view = memoryview(payload)
    size = _header_bytes(view)
    try:
        fields = _decoder.decode(view[:size])
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise _refusal(view[:size], error) from None
    if fields.v != VERSION:
        raise _other_version(fields.v)
    return fields, view[size:]


def decode_tensors(packed: msgspec.Raw) -> tuple[TensorSpec, ...]:
    """Raises WireError."""
    try:
        return _tensors_decoder.decode(packed)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise WireError(f"activation tensor is described wrongly: {error}") from None


def is_sound(payload: bytes | memoryview) -> bool:
    """Whether a message that can be decoded is as it was sealed."""
    view = memoryview(payload)
    start = _front_at(view)
    at, end = start + _SEAL_AT, start + _SEAL_END
    return _checksum(view[:at], view[end:]) == view[at:end]


def header_of(fields: Fields) -> Header:
    """The header that the rest of the system knows. Raises WireError for a negative count."""
    _check_names(fields)
    _check_counts("term, epoch or attempt", fields.term, fields.epoch, fields.attempt)
    _check_counts("lane", fields.lane)
    _check_rows(fields)
    for stamp in fields.stamps:
        _check_counts("stamps", stamp.queue_us, stamp.compute_us, stamp.codec_us)
    edge, credit = fields.edge, fields.credit
    if edge is not None:
        _check_counts("edge", edge[2], edge[3])
    if credit is not None:
        _check_counts("credit", credit.bytes, credit.messages)
    return Header(
        fields.kind,
        fields.deployment,
        Stamp(fields.term, fields.leader, fields.epoch),
        fields.source,
        fields.target,
        fields.request,
        fields.attempt,
        fields.door,
        fields.rows,
        fields.budget_ms,
        fields.trace,
        fields.stamps,
        None if edge is None else EdgeMark(*edge),
        None
        if credit is None
        else Credit(credit.sender, credit.receiver, credit.bytes, credit.messages, credit.probe),
        fields.failure,
        fields.sampling,
        fields.lane,
        None if fields.copy is None else _copy(fields.copy),
        None if fields.passed is None else _passed(fields.passed),
        fields.recall,
    )


def _passed(fields: PassedFields) -> Passed:
    _check_counts("passed", fields.nbytes, fields.expiry_s or 0, fields.deaths or 0)
    if len(fields.device) > DEVICE_MAX or not _LEVEL.isdisjoint(fields.device):
        raise WireError(f"activation header names {fields.device!r:.60}, which is no device")
    if len(fields.correlation or b"") > CORRELATION_MAX:
        raise WireError(f"activation header holds Correlation Data over {CORRELATION_MAX} bytes")
    return Passed(*msgspec.structs.astuple(fields))


def _copy(fields: CopyFields) -> Copy:
    start, stop = fields.units
    _check_counts("copy", start, fields.term, fields.epoch)
    if not start < stop <= UNITS_MAX:
        raise WireError(f"activation header names units {start}:{stop}, which are none")
    if max(len(fields.leader), len(fields.segment)) > NAME_MAX:
        raise WireError(f"activation header names {fields.segment!r:.60}, which is no name here")
    stamp = Stamp(fields.term, fields.leader, fields.epoch)
    return Copy(UnitRange(start, stop), stamp, fields.segment)


def _header_bytes(view: memoryview) -> int:
    """The header's size, read before the header."""
    try:
        seal_key, _, size_key, size = _FRONT.unpack_from(view, _front_at(view))
    except (IndexError, struct.error):
        raise WireError("activation message is too short to have a header") from None
    if seal_key != _SEAL_KEY or size_key != _SIZE_KEY:
        raise WireError("activation message does not begin with its checksum and header size")
    if size > min(HEADER_MAX, len(view)):
        raise WireError(f"activation header is cut short or over {HEADER_MAX} bytes")
    return int(size)


def _front_at(message: bytearray | memoryview) -> int:
    return 1 if message[0] < _SMALL_MAP_END else _LARGE_MAP_BYTES


def _refusal(header: memoryview, error: Exception) -> WireError:
    """Of another version the fields may differ, so that is what to say first."""
    try:
        version = _version_decoder.decode(header).v
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        version = VERSION
    if version != VERSION:
        return _other_version(version)
    return WireError(f"activation header cannot be read: {error}")


def _other_version(version: int) -> WireError:
    return WireError(
        f"activation header has version {version}, this program speaks {VERSION}; "
        "update the older side"
    )


def _check_counts(name: str, *values: int) -> None:
    if min(values) < 0:
        raise WireError(f"activation header field {name} holds a negative count")
    if max(values) >= _COUNT_MAX:
        raise WireError(f"activation header field {name} holds a count beyond 2^53")


def _check_names(fields: Fields) -> None:
    for name in (fields.deployment, fields.door):
        if len(name) > NAME_MAX or not _LEVEL.isdisjoint(name):
            raise WireError(f"activation header names {name!r:.60}, which is no topic level")
    for name in (fields.source, fields.target, fields.leader):
        if len(name) > NAME_MAX:
            raise WireError(f"activation header names {name!r:.60}, which is no name here")


def _check_rows(fields: Fields) -> None:
    for row in fields.rows:
        if len(row.session) > NAME_MAX:
            raise WireError(f"activation header names {row.session!r:.60}, which is no session")
        _check_counts("rows", row.position, row.tokens, row.take)
    if fields.sampling and len(fields.sampling) != len(fields.rows):
        raise WireError("activation header names another number of samplings than of rows")
    for how in fields.sampling:
        _check_sampling(how)


def _check_sampling(how: Sampling | None) -> None:
    if how is None:
        return
    _check_counts("sampling", how.top_k, how.seed)
    # Not a number is in no range.
    if not (0 <= how.temperature <= TEMPERATURE_MAX and 0 < how.top_p <= 1):
        raise WireError("activation header field sampling is out of range")
    if len(how.text) > TEXT_ID_MAX:
        raise WireError(f"activation header names a text by more than {TEXT_ID_MAX} bytes")


def _checksum(*parts: bytes | bytearray | memoryview) -> bytes:
    checksum = xxhash.xxh3_64()
    for part in parts:
        checksum.update(part)
    digest: bytes = checksum.digest()
    return digest
