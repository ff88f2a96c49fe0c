"""Activations as bytes: a msgpack header, then the tensors as their codecs wrote them, in chunks.

A chunk is one MQTT message. The first carries the whole header, the others only what tells
them apart; the size is declared in the first and checked before memory is taken for it. Each
message carries a checksum of all of it. Nothing here ever unpickles.

A broker stores a whole message before it forwards it, so chunks of about 256 KB let sending,
forwarding and receiving overlap (docs/decisions/0002).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from dsi_mqtt.core.activation import Tensor, Tensors, expected_bytes
from dsi_mqtt.core.encoding import encoded_bytes
from dsi_mqtt.core.message import Activation, Header
from dsi_mqtt.core.sizes import KIB, MIB
from dsi_mqtt.errors import TooLargeError, WireError
from dsi_mqtt.wire.header import (
    Chunk,
    Fields,
    TensorSpec,
    decode,
    decode_tensors,
    first_fields,
    header_of,
    is_sound,
    next_fields,
    sealed,
)

CHUNK_BYTES: Final = 256 * KIB
ACTIVATION_MAX: Final = 256 * MIB
PARTIAL_MAX: Final = 64
_ALIGNMENT: Final = 16


class _Declared(NamedTuple):
    """What the first chunk says of the whole, checked before memory is taken for it.

    decoded: bytes of its tensors once they are decoded.
    """

    header: Header
    specs: tuple[TensorSpec, ...]
    decoded: int


def encode(activation: Activation, *, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
    """The messages of one activation, in order."""
    raw, specs = _lay_out(activation.tensors)
    total = len(raw)
    pieces = max(1, -(-total // chunk_bytes))
    for i in range(pieces):
        offset = i * chunk_bytes
        piece = raw[offset : offset + chunk_bytes]
        chunk = Chunk(i, pieces, offset, total)
        if i == 0:
            fields = first_fields(activation.header, chunk, specs)
        else:
            fields = next_fields(activation.header, chunk)
        yield b"".join((sealed(fields, piece), piece))


def _lay_out(tensors: Tensors) -> tuple[memoryview, list[TensorSpec]]:
    """All tensors in one buffer, each at an aligned offset, and what describes them."""
    specs: list[TensorSpec] = []
    pieces: list[bytes | memoryview] = []
    offset = 0
    for tensor in tensors:
        gap = -offset % _ALIGNMENT
        if gap:
            pieces.append(bytes(gap))
            offset += gap
        specs.append(
            TensorSpec(tensor.name, tensor.dtype, tensor.shape, tensor.codec, offset, tensor.nbytes)
        )
        pieces.append(tensor.data)
        offset += tensor.nbytes
    if len(pieces) == 1:  # the common case costs no copy
        return memoryview(pieces[0]).cast("B"), specs
    return memoryview(b"".join(pieces)), specs


def _chunk(fields: Fields) -> Chunk:
    chunk = fields.chunk
    if not (chunk.i < chunk.n and chunk.offset <= chunk.total):
        raise WireError(f"activation chunk {chunk.i} of {chunk.n} lies outside of its activation")
    return chunk


def _declared(fields: Fields, total: int) -> _Declared:
    """Raises BrokenActivationError when the tensors do not fit `total` raw bytes."""
    header = header_of(fields)
    try:
        specs = decode_tensors(fields.tensors)
        stop = max([_stop(spec) for spec in specs], default=0)
        decoded = sum(expected_bytes(spec.dtype, spec.shape) for spec in specs)
    except WireError as error:
        raise BrokenActivationError(str(error), header) from None
    if stop != total:
        raise BrokenActivationError("tensors do not account for all bytes declared", header)
    return _Declared(header, specs, decoded)


def _stop(spec: TensorSpec) -> int:
    """Where the tensor's bytes end. Raises WireError when it cannot have that many."""
    if spec.nbytes != encoded_bytes(spec.codec, spec.dtype, spec.shape):
        raise WireError(f"tensor {spec.name!r:.40} does not fit its declared size")
    return spec.offset + spec.nbytes


# --- reassembly -------------------------------------------------------------------------------

AssemblyKey = tuple[str, bytes, int, str, str]


@dataclass(slots=True)
class _Partial:
    declared: _Declared
    buffer: memoryview
    chunk: Chunk
    started: float


class BrokenActivationError(WireError):
    """An activation arrived damaged or with a gap; `header` says which one."""

    def __init__(self, message: str, header: Header) -> None:
        super().__init__(message)
        self.header = header


class Assembler:
    """Puts chunks together again. One for each connection; messages of a sender keep their order.

    limit: bytes that one activation, decoded too, and all unfinished ones together, may take.
    """

    def __init__(self, limit: int = ACTIVATION_MAX) -> None:
        self._limit = limit
        self._partial: OrderedDict[AssemblyKey, _Partial] = OrderedDict()
        self._held = 0

    def feed(self, payload: bytes | memoryview, now: float) -> Activation | None:
        """The activation that this message completes.

        Raises BrokenActivationError when it can name the attempt that broke, WireError when the
        message is not readable at all.
        """
        fields, raw = decode(payload)
        if not is_sound(payload):
            raise self._damaged(fields)
        chunk = _chunk(fields)
        if chunk.i == 0 and chunk.n == 1:
            return self._whole(fields, chunk, raw)
        key = _key(fields)
        if chunk.i == 0:
            self._begin(key, fields, chunk, now)
        return self._extend(key, fields, chunk, raw)

    def expire(self, now: float, age_s: float) -> list[Header]:
        """Drops activations that began over `age_s` ago and never ended; returns their headers."""
        gone = []
        while self._partial:
            key, partial = next(iter(self._partial.items()))
            if now - partial.started < age_s:
                break
            self._drop(key)
            gone.append(partial.declared.header)
        return gone

    def clear(self) -> list[Header]:
        """Drops everything unfinished, as after a lost connection."""
        gone = [partial.declared.header for partial in self._partial.values()]
        self._partial.clear()
        self._held = 0
        return gone

    def _whole(self, fields: Fields, chunk: Chunk, raw: memoryview) -> Activation:
        declared = _declared(fields, chunk.total)
        if max(chunk.total, declared.decoded) > self._limit:
            raise _too_large(declared.header, max(chunk.total, declared.decoded), self._limit)
        if len(raw) != chunk.total:
            message = "activation is shorter or longer than declared"
            raise BrokenActivationError(message, declared.header)
        return _finish(declared, raw)

    def _begin(self, key: AssemblyKey, fields: Fields, chunk: Chunk, now: float) -> None:
        self._drop(key)
        declared = _declared(fields, chunk.total)
        if declared.decoded > self._limit:
            raise _too_large(declared.header, declared.decoded, self._limit)
        if self._held + chunk.total > self._limit:
            raise _too_large(declared.header, chunk.total, self._limit - self._held)
        if len(self._partial) >= PARTIAL_MAX:
            raise BrokenActivationError("too many unfinished activations at once", declared.header)
        self._partial[key] = _Partial(
            declared,
            np.empty(chunk.total, np.uint8).data,  # not zeroed: all is written
            Chunk(-1, chunk.n, 0, chunk.total),
            now,
        )
        self._held += chunk.total

    def _extend(
        self, key: AssemblyKey, fields: Fields, chunk: Chunk, raw: memoryview
    ) -> Activation | None:
        partial = self._partial.get(key)
        if partial is None:
            raise BrokenActivationError(
                f"chunk {chunk.i} came without its beginning", header_of(fields)
            )
        last = partial.chunk
        end = chunk.offset + len(raw)
        fits = (
            chunk.i == last.i + 1
            and chunk.n == last.n
            and chunk.total == last.total
            and chunk.offset == last.offset
            and end <= chunk.total
        )
        if not fits:
            self._drop(key)
            raise BrokenActivationError(
                f"a gap before chunk {chunk.i} of {chunk.n}", partial.declared.header
            )
        partial.buffer[chunk.offset : end] = raw
        partial.chunk = Chunk(chunk.i, chunk.n, end, chunk.total)
        if chunk.i + 1 < chunk.n:
            return None
        self._drop(key)
        if end != chunk.total:
            message = "activation is shorter than declared"
            raise BrokenActivationError(message, partial.declared.header)
        return _finish(partial.declared, partial.buffer)

    def _damaged(self, fields: Fields) -> BrokenActivationError:
        """What was damaged is given up under the name it bears; a wrong one hurts nobody."""
        key = _key(fields)
        partial = self._partial.get(key)
        self._drop(key)
        header = partial.declared.header if partial else header_of(fields)
        return BrokenActivationError("checksum differs: the activation was damaged", header)

    def _drop(self, key: AssemblyKey) -> None:
        partial = self._partial.pop(key, None)
        if partial is not None:
            self._held -= partial.chunk.total


def _key(fields: Fields) -> AssemblyKey:
    sender = "" if fields.edge is None else fields.edge[0]
    return sender, fields.request, fields.attempt, fields.source, fields.target


def _finish(declared: _Declared, raw: memoryview) -> Activation:
    tensors = [
        Tensor(s.name, s.dtype, s.shape, raw[s.offset : s.offset + s.nbytes], s.codec)
        for s in declared.specs
    ]
    return Activation(declared.header, tuple(tensors))


def _too_large(header: Header, size: int, room: int) -> BrokenActivationError:
    error = TooLargeError(f"activation of {size} bytes exceeds the {max(0, room)} bytes left here")
    return BrokenActivationError(str(error), header)
