"""Policies that packages on this machine offer (`core.policy`)."""

from __future__ import annotations

import logging
from importlib.metadata import EntryPoint, entry_points

from dsi_mqtt.core.policy import BUILTIN_ONLY, GROUP, Broken, Policies, Policy

log = logging.getLogger(__name__)


def installed_policies() -> Policies:
    """By name. One that cannot be loaded is told of, and refuses the deployments that name it."""
    found: dict[str, Policy | Broken] = {}
    for entry in entry_points(group=GROUP):
        twice = entry.name in found
        found[entry.name] = _broken(entry, "two packages offer it") if twice else _loaded(entry)
    return {**found, **BUILTIN_ONLY}


def _loaded(entry: EntryPoint) -> Policy | Broken:
    try:
        policy = entry.load()()
    except Exception as error:  # noqa: BLE001 - it is anybody's code
        return _broken(entry, f"{type(error).__name__}: {error}")
    lacking = [name for name in ("asks", "moves") if not callable(getattr(policy, name, None))]
    if lacking:
        return _broken(entry, f"what {entry.value} makes has no method {lacking[0]}")
    made: Policy = policy
    return made


def _broken(entry: EntryPoint, why: str) -> Broken:
    log.warning("policy %s (%s) cannot be used: %s", entry.name, entry.value, why)
    return Broken(f"it cannot be loaded: {why}")
