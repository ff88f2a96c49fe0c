"""Factories as users write them, of modules that are no chains."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import nn
from torch.nn import functional

from dsi_mqtt.engine.torch import OwnModel

SEED: Final = 11


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(SEED)
    module = make()
    for name, buffer in module.named_buffers():
        if name.endswith(("mean", "var")):
            buffer.uniform_(0.5, 1.5)
    return module


class Residual(nn.Module):
    """A bottleneck that writes in place, as the usual ones do."""

    def __init__(self, inner: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inner, width, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.last_norm = nn.BatchNorm2d(width)
        self.act = nn.ReLU(inplace=True)
        self.short = nn.Conv2d(inner, width, 1, stride) if inner != width or stride > 1 else None

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        made = self.act(self.norm(self.first(value)))
        made = self.last_norm(self.second(made))
        made += value if self.short is None else self.short(value)
        result: torch.Tensor = self.act(made)
        return result


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(inplace=True))
        self.stages = nn.Sequential(
            Residual(8, 8, 1), Residual(8, 16, 2), Residual(16, 16, 1), Residual(16, 24, 2)
        )
        self.classes = nn.Linear(24, 5)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        value = self.stages(self.stem(pixels))
        result: torch.Tensor = self.classes(functional.adaptive_avg_pool2d(value, 1).flatten(1))
        return result


def resnet() -> OwnModel:
    return OwnModel(seeded(ResNet), torch.zeros(1, 3, 48, 48))


class Twice(nn.Sequential):
    def __init__(self, inner: int, width: int) -> None:
        super().__init__(
            nn.Conv2d(inner, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(inplace=True),
        )


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([Twice(1, 8), Twice(8, 16)])
        self.middle = Twice(16, 16)
        self.up = nn.ModuleList([Twice(32, 8), Twice(16, 8)])
        self.pixels = nn.Conv2d(8, 2, 1)
        self.drop = nn.Dropout2d(0.2, inplace=True)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        skips = []
        value = image
        for part in self.down:
            value = part(value)
            skips.append(value)
            value = functional.max_pool2d(value, 2)
        value = self.drop(self.middle(value))
        for part, skip in zip(self.up, reversed(skips), strict=True):
            value = functional.interpolate(value, scale_factor=2.0, mode="bilinear")
            value = part(torch.cat([value, skip], 1))
        result: torch.Tensor = self.pixels(value)
        return result


def unet() -> OwnModel:
    return OwnModel(seeded(UNet), torch.zeros(1, 1, 32, 32))


class Branches(nn.Module):
    """An image and a sequence with its mask, read apart and then together; two answers."""

    steps: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU()
        )
        self.words = nn.Embedding(40, 16)
        self.register_buffer("steps", torch.linspace(0, 1, 64), persistent=False)
        self.read = nn.GRU(16, 8, 2, batch_first=True, bidirectional=True)
        self.meet = nn.Bilinear(16, 16, 16)
        self.score = nn.utils.parametrizations.weight_norm(nn.Linear(16, 4))

    def forward(
        self, image: torch.Tensor, words: torch.Tensor, *, mask: torch.Tensor
    ) -> dict[str, Any]:
        seen = self.look(image).mean((2, 3))
        told = self.words(words) + self.steps[: words.shape[1], None]
        states, _ = self.read(told)
        heard = torch.where(mask[..., None], states, 0.0).sum(1) / mask.sum(1, keepdim=True)
        both = torch.tanh(self.meet(seen, heard))
        first, second = both.chunk(2, -1)
        swapped = torch.cat([second, first], -1)
        return {"scores": self.score(both + swapped), "likeliest": (both.argmax(-1), None)}


def branches() -> OwnModel:
    sample = {
        "image": torch.zeros(1, 3, 20, 20),
        "words": torch.arange(9)[None],
        "mask": torch.ones(1, 9, dtype=torch.bool),
    }
    return OwnModel(seeded(Branches), sample)


class Attention(nn.Module):
    """Heads of attention with a causal mask that is made of sizes, and tied embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(30, 16)
        self.places = nn.Parameter(torch.randn(24, 16))
        self.mix = nn.ModuleList(nn.MultiheadAttention(16, 2, batch_first=True) for _ in range(3))
        self.wide = nn.ModuleList(nn.Linear(16, 32) for _ in range(3))
        self.narrow = nn.ModuleList(nn.Linear(32, 16) for _ in range(3))
        self.out = nn.Linear(16, 30, bias=False)
        self.out.weight = self.words.weight

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        length = words.shape[1]
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        value = self.words(words) + self.places[:length]
        for mix, wide, narrow in zip(self.mix, self.wide, self.narrow, strict=True):
            value = value + mix(value, value, value, attn_mask=later, need_weights=False)[0]
            value = value + narrow(functional.gelu(wide(value)))
        result: torch.Tensor = self.out(value)
        return result


def attention() -> OwnModel:
    return OwnModel(seeded(Attention), torch.arange(7)[None])


class Slices(nn.Module):
    """Writes into parts of tensors, which takes the tracer's own rewriting."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        made = self.first(value)
        kept = torch.zeros_like(made)
        kept[:, :3] = made[:, 3:]
        kept[:, 3:] += self.second(kept)[:, :3]
        result: torch.Tensor = kept.relu_() + made
        return result


def slices() -> OwnModel:
    return OwnModel(seeded(Slices), torch.zeros(1, 6))


def asked() -> OwnModel:
    """Reads and writes in its own way; takes the sample's length alone."""

    def read(content_type: str, body: bytes) -> tuple[torch.Tensor, ...]:
        rows = json.loads(body)
        return torch.tensor(rows["left"]), torch.tensor(rows["right"])

    def write(row: tuple[torch.Tensor, torch.Tensor]) -> object:
        return {"sum": row[0].sum().item(), "places": list(row[1].shape)}

    module = seeded(Pair)
    return OwnModel(module, (torch.zeros(1, 4), torch.zeros(1, 4)), read, write, fixed_shape=True)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(
        self, left: torch.Tensor, right: torch.Tensor, extra: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        del extra
        return self.left(left) + right, self.right(right)


def linear(width: int = 4) -> nn.Module:
    return seeded(lambda: nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2)))


class Squeezing(nn.Module):
    """Is another model where there is but one of a thing."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.layer(value).squeeze(1)
        return made.mean(1)


def squeezing() -> OwnModel:
    return OwnModel(seeded(Squeezing), torch.zeros(1, 5, 4))


class Forward(nn.Module):
    """One linear layer and whatever `then` makes of it."""

    def __init__(self, then: Callable[[nn.Module, torch.Tensor], Any]) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros(4))
        self.then = then

    def forward(self, value: torch.Tensor) -> Any:
        return self.then(self, self.layer(value))


def _depends(_: nn.Module, value: torch.Tensor) -> torch.Tensor:
    return value if value.sum() > 0 else -value


def _chosen(_: nn.Module, value: torch.Tensor) -> torch.Tensor:
    return value[value[:, 0] > 0]


def _noisy(_: nn.Module, value: torch.Tensor) -> torch.Tensor:
    return value + torch.rand_like(value)


def _dropped(_: nn.Module, value: torch.Tensor) -> torch.Tensor:
    return functional.dropout(value, 0.5)


def _counting(module: nn.Module, value: torch.Tensor) -> torch.Tensor:
    module.get_buffer("calls").add_(1)
    return value + module.get_buffer("calls")


def _counting_a_part(module: nn.Module, value: torch.Tensor) -> torch.Tensor:
    module.get_buffer("calls")[1:] += 1
    return value


def _one_row(_: nn.Module, value: torch.Tensor) -> torch.Tensor:
    return value.reshape(1, 4)


def _rows_lost(_: nn.Module, value: torch.Tensor) -> torch.Tensor:
    return value.mean(0)


def _branching(_: nn.Module, value: torch.Tensor) -> torch.Tensor:
    made: torch.Tensor = torch.cond(value.sum() > 0, torch.sin, torch.cos, (value,))
    return made


def _infinite(_: nn.Module, value: torch.Tensor) -> torch.Tensor:
    return value / 0


def _raising(_: nn.Module, value: torch.Tensor) -> torch.Tensor:
    raise LookupError(f"no place for {value.dim()} dimensions")


REFUSED: Final[dict[str, Any]] = {
    "depends": _depends,
    "chosen": _chosen,
    "noisy": _noisy,
    "dropped": _dropped,
    "counting": _counting,
    "counting_a_part": _counting_a_part,
    "one_row": _one_row,
    "rows_lost": _rows_lost,
    "branching": _branching,
    "infinite": _infinite,
    "raising": _raising,
}


def refused(then: str) -> OwnModel:
    return OwnModel(seeded(lambda: Forward(REFUSED[then])), torch.zeros(1, 4))


def wrong_sample(kind: str) -> OwnModel:
    return OwnModel(
        seeded(Pair),
        {
            "none": None,
            "names": {"up": torch.zeros(1, 4)},
            "many": tuple(torch.zeros(1, 4) for _ in range(5)),
            "row": (torch.zeros(4), torch.zeros(4)),
            "empty": {},
            "list": [torch.zeros(1, 4)],
        }[kind],  # type: ignore[arg-type]
    )


class Measured(nn.Module):
    """Computes with its weights when it is built."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.kind, self.scale, self.table = kind, 1.0, torch.ones(4)
        rows = self.layer.weight.detach().abs().sum(1)
        if kind == "number":
            self.scale = float(rows.max())
        elif kind == "buffer":
            self.register_buffer("rows", rows, persistent=False)
            del self.table
        else:
            self.table = rows

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        table = self.rows if hasattr(self, "rows") else self.table
        if self.kind == "like":
            table = torch.ones_like(self.table, device=value.device)
        made: torch.Tensor = self.layer(value) * table / self.scale
        return made


def measured(kind: str) -> OwnModel:
    return OwnModel(seeded(lambda: Measured(kind)), torch.zeros(1, 4))


class Heavy(nn.Module):
    """A hundred mebibytes of weights, and a tensor that goes past them."""

    def __init__(self, layers: int = 24, width: int = 1024) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        past = value
        for layer in self.layers:
            value = torch.relu(layer(value))
        return value + past


def heavy() -> OwnModel:
    return OwnModel(Heavy(), torch.zeros(1, 1024))
