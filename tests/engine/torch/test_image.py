"""Images in, labels out."""

from __future__ import annotations

import io
import json
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from dsi_mqtt.core.activation import JSON, NPY, OCTETS, TEXT, Row, pack_body
from dsi_mqtt.core.model import ModelSpec
from dsi_mqtt.engine.torch import TorchEngine, TorchFactory
from dsi_mqtt.errors import CheckpointError, ConfigError, InvalidInputError
from tests.engine.torch.references import in_memory_of_its_own

PROCESSOR = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32},
             "image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.25, 0.2]}  # fmt: skip


@pytest.fixture
def folder(checkpoint: Any, tmp_path: Path) -> Path:
    made = tmp_path / "vit"
    shutil.copytree(checkpoint("vit"), made)
    (made / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return made


def opened(folder: Path, **spec: Any) -> TorchEngine:
    return TorchFactory().open(ModelSpec(path=str(folder), **spec))


def refused(engine: TorchEngine, body: bytes, kind: str) -> str:
    engine.load(engine.graph.whole)
    with pytest.raises(InvalidInputError) as raised:
        engine.forward(engine.graph.whole, (Row(),), pack_body(kind, body))
    return str(raised.value)


def picture() -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    return Image.fromarray(values)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def npy(value: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, value)
    return stream.getvalue()


def expected(folder: Path, image: Image.Image) -> list[float]:
    model = in_memory_of_its_own(transformers.ViTForImageClassification.from_pretrained(folder))
    processor = transformers.ViTImageProcessor.from_pretrained(folder)
    with torch.inference_mode():
        logits = model(**processor(images=image, return_tensors="pt")).logits
    scores: list[float] = logits.softmax(-1).sort(descending=True).values[0].double().tolist()
    return scores


@pytest.mark.parametrize("kind", ["image/png", OCTETS, "IMAGE/PNG; q=1"])
def test_a_png_is_classified_as_the_library_does(folder: Path, ask: Any, kind: str) -> None:
    answer = ask(opened(folder, options={"top_k": 7}), encoded(picture(), "PNG"), 1, 3, kind=kind)
    assert [label["score"] for label in answer["labels"]] == expected(folder, picture())


def test_jpegs_greys_and_turned_pictures(folder: Path, ask: Any) -> None:
    engine = opened(folder, options={"top_k": 7})
    jpeg = encoded(picture(), "JPEG")
    shown = Image.open(io.BytesIO(jpeg)).convert("RGB")
    answer = ask(engine, jpeg, 2, kind="image/jpeg")
    assert [label["score"] for label in answer["labels"]] == expected(folder, shown)
    grey = picture().convert("L")
    answer = ask(engine, encoded(grey, "PNG"), kind="image/png")
    assert [label["score"] for label in answer["labels"]] == expected(folder, grey.convert("RGB"))
    turned = Image.Exif()
    turned[0x0112] = 3
    upright = encoded(picture().rotate(180), "PNG")
    lying = encoded(picture(), "PNG", exif=turned)
    assert ask(engine, upright, kind="image/png") == ask(engine, lying, kind="image/png")


def test_arrays_of_pixels_need_no_processor(checkpoint: Any, ask: Any) -> None:
    engine = opened(checkpoint("vit"))
    pixels = np.random.default_rng(1).normal(size=(3, 32, 32)).astype(np.float32)
    one = ask(engine, npy(pixels), 2, kind=NPY)
    assert ask(engine, npy(pixels), 1, kind=OCTETS) == one
    assert ask(engine, pixels.tolist(), 3) == one
    several = ask(engine, npy(np.stack([pixels, pixels])), 4, kind=NPY)["results"]
    assert [item["labels"][0]["id"] for item in several] == [one["labels"][0]["id"]] * 2
    engine.load(engine.graph.whole)
    assert "no image processor" in refused(engine, encoded(picture(), "PNG"), "image/png")


def png_that_claims(width: int, height: int) -> bytes:
    """A few bytes that announce a picture of that size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )  # fmt: skip


@pytest.mark.parametrize(
    ("body", "kind", "reason"),
    [
        (b"no image", "image/png", "neither JPEG nor PNG"),
        (b"", OCTETS, "neither JPEG nor PNG"),
        (encoded(picture(), "GIF"), "image/gif", "neither JPEG nor PNG"),
        (encoded(picture(), "PNG")[:400], "image/png", "cannot be decoded"),
        (png_that_claims(7000, 7000), "image/png", "7000 by 7000 pixels; at most 40000000"),
        (png_that_claims(60000, 60000), "image/png", "pixels"),
        (b"text", TEXT, "reads images, not 'text/plain'"),
        (b'"text"', JSON, "expected lists of numbers"),
        (b"[[1], [2, 3]]", JSON, "different lengths"),
        (npy(np.zeros((32, 32, 3))), NPY, "shape (32, 32, 3); send (3, height, width)"),
        (npy(np.zeros((3, 32))), NPY, "shape (3, 32)"),
    ],
)
def test_bad_images_are_refused_in_words(folder: Path, body: bytes, kind: str, reason: str) -> None:
    assert reason in refused(opened(folder), body, kind)


def test_sizes_that_the_model_refuses_are_their_senders_fault(folder: Path) -> None:
    reason = refused(opened(folder), npy(np.zeros((3, 48, 48))), NPY)
    assert "does not take this input" in reason
    assert "48" in reason


def test_the_limit_of_pixels_is_the_deployments(folder: Path) -> None:
    engine = opened(folder, options={"pixels_max": 1999})
    assert "at most 1999" in refused(engine, encoded(picture(), "PNG"), "image/png")


def test_features_of_base_vision_models(checkpoint: Any, ask: Any) -> None:
    folder = checkpoint("dinov2")
    pixels = np.random.default_rng(2).normal(size=(3, 32, 32)).astype(np.float32)
    features = ask(opened(folder), npy(pixels), 2, kind=NPY)["features"]
    with torch.inference_mode():
        model = in_memory_of_its_own(transformers.Dinov2Model.from_pretrained(folder))
        output = model(torch.from_numpy(pixels)[None])
    assert torch.equal(torch.tensor(features), output.pooler_output[0])


def test_a_damaged_processor_file_is_named(folder: Path) -> None:
    (folder / "preprocessor_config.json").write_text('{"image_processor_type": "NoSuchProcessor"}')
    engine = opened(folder)
    with pytest.raises(
        CheckpointError, match=r"preprocessor_config\.json makes no image processor"
    ):
        engine.load(engine.graph.whole)


def test_text_tasks_need_text_models(folder: Path) -> None:
    with pytest.raises(ConfigError, match="needs a text model"):
        opened(folder, task="embedding")


def test_reference_size_comes_from_the_processor_where_the_model_has_none(
    checkpoint: Any, tmp_path: Path
) -> None:
    made = tmp_path / "resnet"
    shutil.copytree(checkpoint("resnet"), made)
    before = opened(made).graph
    assert before.input_bytes == 3 * 224 * 224 * 4
    (made / "preprocessor_config.json").write_text(
        json.dumps(PROCESSOR | {"crop_size": {"height": 64, "width": 96}})
    )
    after = opened(made).graph
    assert after.input_bytes == 3 * 64 * 96 * 4
    assert after.units[0].flops < before.units[0].flops
    assert after.digest != before.digest
