"""Where an engine's weights come from: a listing first, then one tensor at a time.

A segment reads the tensors of its own units only, each straight into the memory where it stays.
Files are read, never mapped: a mapped file that is truncated later ends the process.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from dsi_mqtt.core.activation import type_sizes
from dsi_mqtt.engine.digest import file_digest
from dsi_mqtt.errors import CheckpointError

INDEX: Final = "model.safetensors.index.json"
SINGLE: Final = "model.safetensors"

# A header is a few hundred bytes a tensor; more than this is no safetensors file.
_HEADER_MAX: Final = 100_000_000
_DTYPES: Final = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
}


# What a header says of one tensor, before it is checked.
JsonEntry = Any


@dataclass(frozen=True, slots=True)
class Weight:
    """One stored tensor: row-major, little-endian. dtype as in `core.activation.type_sizes`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


class WeightSource(Protocol):
    """Stored tensors by the names they have in the checkpoint.

    Errors: CheckpointError naming the file (or origin) and the tensor.
    """

    @property
    def weights(self) -> Mapping[str, Weight]: ...

    def read_into(self, name: str, buffer: memoryview) -> None:
        """Fills `buffer` (exactly the tensor's bytes, writable) with the tensor."""

    def digest(self) -> str:
        """SHA-256 of all stored bytes, in hexadecimal."""


@dataclass(frozen=True, slots=True)
class _Placed:
    """Where a tensor lies in its file."""

    weight: Weight
    file: Path
    offset: int


class FolderSource:
    """Safetensors files of one folder: a single one, or shards named by an index."""

    def __init__(self, folder: Path) -> None:
        """Reads the headers. Raises CheckpointError for a missing, short or other file."""
        self._folder = folder
        self._files = _weight_files(folder)
        self._placed: dict[str, _Placed] = {}
        for file in self._files:
            self._placed |= {placed.weight.name: placed for placed in _read_header(file)}
        _check_index(folder, self._placed)
        self._weights = {name: placed.weight for name, placed in self._placed.items()}

    @property
    def weights(self) -> Mapping[str, Weight]:
        return self._weights

    def read_into(self, name: str, buffer: memoryview) -> None:
        placed = self._placed.get(name)
        if placed is None:
            raise CheckpointError(f"{self._folder}: no weight file holds the tensor {name}")
        target = buffer.cast("B")
        try:
            with placed.file.open("rb", buffering=0) as stream:
                stream.seek(placed.offset)
                done = 0
                while done < len(target):
                    count = stream.readinto(target[done:])
                    if not count:
                        raise CheckpointError(
                            f"{placed.file} ends inside the tensor {name}; copy the file again"
                        )
                    done += count
        except OSError as error:
            raise CheckpointError(
                f"{placed.file}: the tensor {name} cannot be read: {error.strerror}"
            ) from error

    def digest(self) -> str:
        return ",".join(file_digest(file) for file in self._files)


def _weight_files(folder: Path) -> tuple[Path, ...]:
    single, index = folder / SINGLE, folder / INDEX
    if index.is_file():
        return tuple(folder / name for name in sorted(set(_weight_map(index).values())))
    if single.is_file():
        return (single,)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; set model.path to a checkpoint folder")
    pickled = sorted(file.name for file in folder.glob("*.bin"))
    if pickled:
        raise CheckpointError(
            f"{folder} holds pickled weights ({pickled[0]}), which are never loaded; "
            f"save the model again as {SINGLE}"
        )
    raise CheckpointError(f"{folder} holds neither {SINGLE} nor {INDEX}; add the weights")


def _weight_map(index: Path) -> dict[str, str]:
    try:
        mapping = json.loads(index.read_bytes())["weight_map"]
        entries = dict(mapping.items())
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise CheckpointError(f"{index} holds no readable weight_map; copy it again") from error
    for name, file in entries.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise CheckpointError(f"{index} names no file of this folder for the tensor {name}")
    return entries


def _check_index(folder: Path, placed: Mapping[str, _Placed]) -> None:
    index = folder / INDEX
    if not index.is_file():
        return
    for name, file in _weight_map(index).items():
        if name not in placed:
            raise CheckpointError(f"{folder / file} lacks the tensor {name} that {INDEX} promises")


def _read_header(file: Path) -> list[_Placed]:
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            prefix = stream.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == len(b"8 bytes.") else 0
            if not 0 < length <= min(size, _HEADER_MAX):
                raise CheckpointError(f"{file} is not a safetensors file, or is cut off")
            header = json.loads(stream.read(length))
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing; copy the complete checkpoint folder") from None
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{file} has a header that is not JSON; copy it again") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{file} has a header that is no object; copy it again")
    start = 8 + length
    return [
        _place(file, name, entry, start, size)
        for name, entry in header.items()
        if name != "__metadata__"
    ]


def _place(file: Path, name: str, entry: JsonEntry, start: int, size: int) -> _Placed:
    try:
        stored, shape = entry["dtype"], tuple(int(dimension) for dimension in entry["shape"])
        first, last = (int(offset) for offset in entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file}: the header entry of {name} is not readable") from error
    dtype = _DTYPES.get(stored)
    if dtype is None:
        raise CheckpointError(
            f"{file}: the tensor {name} has dtype {stored}, which is not supported; "
            "convert the weights to F32, F16 or BF16"
        )
    nbytes = math.prod(shape) * type_sizes[dtype]
    if first < 0 or min(shape, default=0) < 0 or last - first != nbytes:
        raise CheckpointError(f"{file}: the tensor {name} has offsets that do not fit its shape")
    if start + last > size:
        raise CheckpointError(f"{file} is cut off: the tensor {name} lies beyond its end")
    return _Placed(Weight(name, dtype, shape, nbytes), file, start + first)
