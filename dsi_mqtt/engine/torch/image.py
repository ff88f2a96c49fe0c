"""Images and arrays of pixels as a vision model's inputs."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from dsi_mqtt.core.activation import JSON, NPY, OCTETS, media_type
from dsi_mqtt.engine.torch.bodies import (
    IMAGE,
    array_of_numbers,
    is_array,
    read_array,
    read_json,
)
from dsi_mqtt.engine.torch.requests import Request
from dsi_mqtt.engine.torch.structure import Reference
from dsi_mqtt.errors import CheckpointError, InvalidInputError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

PIXELS: Final = "pixel_values"
PROCESSOR_FILES: Final = ("preprocessor_config.json", "processor_config.json")
# A small file can claim an image of terabytes; 40 megapixels decode to 120 MB.
PIXELS_MAX: Final = 40_000_000
_FORMATS: Final = ("JPEG", "PNG")
_REFERENCE_SIDE: Final = 224


class ImageReader:
    """JPEG and PNG through the folder's image processor; arrays of pixels as they are."""

    def __init__(
        self,
        folder: Path,
        config: PretrainedConfig,
        dtype: torch.dtype,
        pixels_max: int = PIXELS_MAX,
    ) -> None:
        self._folder = folder
        self._config = config
        self._dtype = dtype
        self._pixels_max = pixels_max
        self._processor: Any = None

    @property
    def _processor_file(self) -> Path | None:
        return next(
            (self._folder / name for name in PROCESSOR_FILES if (self._folder / name).is_file()),
            None,
        )

    def reference(self) -> Reference:
        channels = getattr(self._config, "num_channels", 3)
        height, width = self._side()
        return Reference({PIXELS: torch.zeros((1, channels, height, width), dtype=self._dtype)})

    def prepare(self) -> None:
        """Loads the image processor, if there is one. Raises CheckpointError."""
        file = self._processor_file
        if self._processor is not None or file is None:
            return
        # Heavy to import, and only a node that holds the prelude of a vision model needs it.
        from transformers import AutoImageProcessor  # noqa: PLC0415

        try:
            self._processor = AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
                str(self._folder), local_files_only=True, trust_remote_code=False
            )
        except Exception as error:
            # Processor classes raise of their own; all of it means that this file does not serve.
            raise CheckpointError(f"{file} makes no image processor: {error}") from error

    def read(self, content_type: str, body: bytes) -> Request:
        self.prepare()
        kind = media_type(content_type)
        if is_array(kind, body):
            return self._pixels(read_array(body))
        if kind == JSON:
            return self._pixels(array_of_numbers(read_json(body), "pixels"))
        if not kind.startswith(IMAGE) and kind != OCTETS:
            raise InvalidInputError(
                f"this model reads images, not {content_type!r}; "
                f"send image/jpeg, image/png or {NPY}"
            )
        if self._processor is None:
            raise InvalidInputError(
                "this model has no image processor; "
                f"send its pixels as {NPY} (channels, height, width)"
            )
        return self._decoded(body)

    def _decoded(self, body: bytes) -> Request:
        try:
            with warnings.catch_warnings():
                # The library warns above a limit of its own, higher than ours.
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(io.BytesIO(body), formats=_FORMATS) as opened:
                    self._check_size(opened.size)
                    image = ImageOps.exif_transpose(opened).convert("RGB")
        except UnidentifiedImageError:
            raise InvalidInputError("the image is neither JPEG nor PNG, or is damaged") from None
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise InvalidInputError(f"the image cannot be decoded: {error}") from None
        made = self._processor(images=image, return_tensors="np")
        pixels = torch.from_numpy(np.asarray(made[PIXELS], dtype=np.float32))
        return Request({PIXELS: pixels.to(self._dtype)}, batched=False)

    def _check_size(self, size: tuple[int, int]) -> None:
        """size: width and height."""
        if size[0] * size[1] > self._pixels_max:
            raise InvalidInputError(
                f"the image has {size[0]} by {size[1]} pixels; "
                f"at most {self._pixels_max} are accepted (options.pixels_max)"
            )

    def _pixels(self, array: NDArray[Any]) -> Request:
        channels = getattr(self._config, "num_channels", 3)
        if array.ndim not in (3, 4) or array.shape[-3] != channels or not array.size:
            raise InvalidInputError(
                f"the pixels have shape {array.shape}; send ({channels}, height, width), "
                "normalised, or a batch of such"
            )
        batch = array.astype(np.float32)
        rows = torch.from_numpy(batch if array.ndim > 3 else batch[None])  # noqa: PLR2004
        self._check_size((rows.shape[3], rows.shape[2]))
        return Request({PIXELS: rows.to(self._dtype)}, batched=array.ndim > 3)  # noqa: PLR2004

    def _side(self) -> tuple[int, int]:
        """Height and width the model is made for: its configuration's, else its processor's."""
        found = getattr(self._config, "image_size", None)
        if found is None and self._processor_file is not None:
            found = _processor_side(self._processor_file)
        if isinstance(found, int):
            return found, found
        if isinstance(found, list | tuple) and len(found) == len(("height", "width")):
            return int(found[0]), int(found[1])
        return _REFERENCE_SIDE, _REFERENCE_SIDE


def _processor_side(file: Path) -> object:
    try:
        stored = json.loads(file.read_bytes())
        size = stored.get("crop_size") or stored.get("size")
    except (OSError, ValueError, AttributeError):
        return None
    if isinstance(size, dict):
        if "height" in size and "width" in size:
            return size["height"], size["width"]
        return size.get("shortest_edge")
    return size
