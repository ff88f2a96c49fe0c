"""What codecs do to a deployment's own samples, measured where they lie.

Once, when its model is opened and nobody uses it yet, part by part, so that a node need not hold
the whole. A node that lacks the samples, or the room for one part, measures nothing: the planner
goes by what others tell.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from dsi_mqtt.core.codecs import PERPLEXITY, to_measure
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.engine.base import Engine
from dsi_mqtt.engine.codec_errors import codec_errors, largest_part
from dsi_mqtt.errors import DsiError, one_sentence
from dsi_mqtt.wire.samples import read_samples

log = logging.getLogger(__name__)

# The node serves nothing of the model meanwhile.
INPUTS_MAX: Final = 16
CHARACTERS_MAX: Final = 2_000


def measured_errors(
    engine: Engine, deployment: Deployment, root: Path | None, weight_bytes: int | None
) -> dict[str, float]:
    """By codec, what one hop adds to the error; empty where it is not asked for, or cannot be
    measured here, which is logged. Blocks for seconds; the engine holds nothing afterwards.

    root: where samples lie, if not where the deployment says. weight_bytes: that may be held.
    """
    names, asked = to_measure(deployment), deployment.codecs.error
    if not names or asked is None or asked.samples is None:
        return {}
    file = _local(Path(asked.samples), root)
    if file is None:
        return _unmeasured(deployment, f"{asked.samples} is not on this machine")
    if weight_bytes is not None and largest_part(engine.graph) > weight_bytes:
        return _unmeasured(deployment, "a part of the model is more than this node may hold")
    try:
        samples = _few(read_samples(file), asked.metric)
        found = codec_errors(engine, samples, names, asked.metric)
    except DsiError as error:
        return _unmeasured(deployment, str(error))
    except Exception as error:  # noqa: BLE001 - the model is a user's, and serves without this
        return _unmeasured(deployment, one_sentence(repr(error)))
    told = ", ".join(f"{name} {error:.2g}" for name, error in found.items())
    log.info("%s: %s of codecs, a hop: %s", deployment.name, asked.metric, told)
    return found


def _local(file: Path, root: Path | None) -> Path | None:
    if file.is_file():
        return file
    beside = root / file.name if root is not None else None
    return beside if beside is not None and beside.is_file() else None


def _few(samples: Sequence[Any], metric: str) -> Sequence[Any]:
    if metric != PERPLEXITY:
        return samples[:INPUTS_MAX]
    texts: list[Any] = []
    left = CHARACTERS_MAX
    for sample in samples:
        if left <= 0:
            break
        texts.append(sample[:left] if isinstance(sample, str) else sample)
        left -= len(sample) if isinstance(sample, str) else 0
    return texts


def _unmeasured(deployment: Deployment, why: str) -> dict[str, float]:
    log.warning("%s: what codecs do to it is not measured here: %s", deployment.name, why)
    return {}
