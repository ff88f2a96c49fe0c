"""Profiles of models on machines, as JSON files. What a newer version adds is ignored."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from dsi_mqtt.core.profiled import ModelProfile
from dsi_mqtt.core.site import SiteFile
from dsi_mqtt.errors import ConfigError, WireError, one_sentence
from dsi_mqtt.wire.control import Codec

CODEC: Final = Codec(ModelProfile, check=ModelProfile.check)


def read_profile(path: Path) -> ModelProfile:
    """Raises ConfigError naming file and field."""
    try:
        return CODEC.decode(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError(one_sentence(f"{path}: no such file")) from None
    except OSError as error:
        raise ConfigError(one_sentence(f"{path}: cannot be read: {error.strerror}")) from None
    except WireError as error:
        told = str(error).removeprefix("ModelProfile: ")
        raise ConfigError(one_sentence(f"{path.name}: {told}")) from None


def site_profiles(site: SiteFile, file: Path) -> dict[str, ModelProfile]:
    """The profiles that the nodes of `file` name, by that name; paths are relative to the file."""
    names = {
        name for node in site.nodes if isinstance(name := (node.compute or {}).get("profile"), str)
    }
    return {name: read_profile(file.parent / Path(name).expanduser()) for name in sorted(names)}
