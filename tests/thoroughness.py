"""How many examples a property is tried with: some in every run, many in `make test-thorough`."""

from __future__ import annotations

from typing import Final

from hypothesis import HealthCheck, settings

USUAL: Final = 100
# By the name of a profile, as `--hypothesis-profile` takes it.
PROFILES: Final = {"quick": USUAL // 2, "thorough": 10 * USUAL}


def register() -> None:
    """Makes the profiles known; "quick" is taken where none is asked for.

    How long an example takes is no matter of theirs: other work may run on the machine.
    """
    slow = [HealthCheck.too_slow]
    for name, count in PROFILES.items():
        settings.register_profile(
            name, max_examples=count, deadline=None, suppress_health_check=slow
        )
    settings.load_profile("quick")


def examples(usual: int) -> int:
    """For a property whose examples are dearer or cheaper than others, of which `USUAL` are usual.

    Decorators ask while their modules are imported: by then the profile has been taken.
    """
    return max(1, usual * settings().max_examples // USUAL)
