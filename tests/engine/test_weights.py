from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsi_mqtt.engine.weights import INDEX, SINGLE, FolderSource, Weight
from dsi_mqtt.errors import CheckpointError

Arrays = dict[str, np.ndarray[Any, Any]]
CODES = {"float32": "F32", "float16": "F16", "int64": "I64", "uint8": "U8", "bool": "BOOL"}


def stored(arrays: Arrays) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, array in arrays.items():
        end = len(data) + array.nbytes
        header[name] = {"dtype": CODES[str(array.dtype)], "shape": list(array.shape),
                        "data_offsets": [len(data), end]}  # fmt: skip
        data += array.tobytes()
    return with_header(header) + data


def with_header(header: object) -> bytes:
    told = json.dumps(header).encode()
    return struct.pack("<Q", len(told)) + told


def read(source: FolderSource, name: str) -> bytes:
    buffer = bytearray(source.weights[name].nbytes)
    source.read_into(name, memoryview(buffer))
    return bytes(buffer)


arrays = st.dictionaries(
    st.text("abc.", min_size=1, max_size=6),
    st.tuples(st.sampled_from(sorted(CODES)), st.lists(st.integers(0, 4), max_size=3)).map(
        lambda made: (np.arange(int(np.prod(made[1]))) % 2).reshape(made[1]).astype(made[0])
    ),
    max_size=5,
)


@given(arrays, arrays)
def test_what_was_stored_is_read(
    tmp_path_factory: pytest.TempPathFactory, first: Arrays, second: Arrays
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    files = {"model-1.safetensors": first, "model-2.safetensors": {**second}}
    for name in first:
        files["model-2.safetensors"].pop(name, None)
    mapping = {name: file for file, held in files.items() for name in held}
    for file, held in files.items():
        (folder / file).write_bytes(stored(held))
    (folder / INDEX).write_text(json.dumps({"weight_map": mapping}))
    source = FolderSource(folder)
    assert set(source.weights) == set(mapping)
    for held in files.values():
        for name, array in held.items():
            assert source.weights[name] == Weight(name, str(array.dtype), array.shape, array.nbytes)
            assert read(source, name) == array.tobytes()


def test_a_single_file_is_read_and_its_digest_is_of_all_bytes(tmp_path: Path) -> None:
    file = tmp_path / SINGLE
    file.write_bytes(stored({"a": np.zeros(3, np.float32)}))
    before = FolderSource(tmp_path).digest()
    assert FolderSource(tmp_path).digest() == before
    file.write_bytes(stored({"a": np.ones(3, np.float32)}))
    assert FolderSource(tmp_path).digest() != before


def test_an_unknown_tensor_is_named(tmp_path: Path) -> None:
    (tmp_path / SINGLE).write_bytes(stored({}))
    with pytest.raises(CheckpointError, match=r"holds the tensor gone"):
        FolderSource(tmp_path).read_into("gone", memoryview(bytearray(4)))


GOOD = stored({"one": np.zeros(4, np.float32)})


def entry(**changes: Any) -> bytes:
    told = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} | changes
    return with_header({"one": told}) + bytes(16)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (GOOD[:-1], "cut off: the tensor one"),
        (GOOD[:20], "not a safetensors file, or is cut off"),
        (b"", "not a safetensors file"),
        (b"PK\x03\x04 something else entirely", "not a safetensors file"),
        (struct.pack("<Q", 4) + b"{{{{", "not JSON"),
        (struct.pack("<Q", 2) + b"[]", "no object"),
        (entry(dtype="F8_E4M3"), "the tensor one has dtype F8_E4M3"),
        (entry(shape=[5]), "the tensor one has offsets that do not fit"),
        (entry(shape=[-4]), "the tensor one has offsets that do not fit"),
        (entry(data_offsets=[-16, 0]), "the tensor one has offsets that do not fit"),
        (entry(data_offsets=[0]), "the header entry of one"),
        (with_header({"one": 3}), "the header entry of one"),
        (with_header({"one": {"dtype": "F32"}}), "the header entry of one"),
    ],
)
def test_damaged_files_are_named_with_the_tensor(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    (tmp_path / SINGLE).write_bytes(content)
    with pytest.raises(CheckpointError, match=reason) as raised:
        FolderSource(tmp_path)
    assert SINGLE in str(raised.value)


def test_a_file_cut_off_after_it_was_opened(tmp_path: Path) -> None:
    file = tmp_path / SINGLE
    file.write_bytes(GOOD)
    source = FolderSource(tmp_path)
    file.write_bytes(GOOD[:-1])
    with pytest.raises(CheckpointError, match="ends inside the tensor one"):
        read(source, "one")
    file.unlink()
    with pytest.raises(CheckpointError, match="the tensor one cannot be read: No such file"):
        read(source, "one")


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ("{", "no readable weight_map"),
        ("{}", "no readable weight_map"),
        ('{"weight_map": 3}', "no readable weight_map"),
        ('{"weight_map": {"one": "../up.safetensors"}}', "names no file of this folder"),
        ('{"weight_map": {"one": 3}}', "names no file of this folder"),
        ('{"weight_map": {"one": "gone.safetensors"}}', "gone.safetensors is missing"),
        ('{"weight_map": {"two": "model.safetensors"}}', "lacks the tensor two"),
    ],
)
def test_damaged_indexes_are_named(tmp_path: Path, index: str, reason: str) -> None:
    (tmp_path / SINGLE).write_bytes(GOOD)
    (tmp_path / INDEX).write_text(index)
    with pytest.raises(CheckpointError, match=reason):
        FolderSource(tmp_path)


def test_folders_without_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a folder"):
        FolderSource(tmp_path / "gone")
    with pytest.raises(CheckpointError, match="add the weights"):
        FolderSource(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"pickled weights \(pytorch_model.bin\)"):
        FolderSource(tmp_path)
