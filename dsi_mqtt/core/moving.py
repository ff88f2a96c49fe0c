"""Keep, remap or re-split: whether a better placement is worth the way there.

A move costs what users feel of it. The next chain is prepared beside the present one, so nothing
stands still; but while nodes load weights they compute more slowly, and requests that are under way
when the tables change wait for it. Both are shares of what requests take meanwhile, and so is what
a move saves afterwards:

    saved = gain * horizon                     gain: the share of the score that is saved
    paid  = SWITCH_S + LOADING * seconds of loading

A gain within `policy.min_gain` may be an error of the figures and moves nothing, unless it brings
requests back within the deployment's target, which is worth more than its share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from dsi_mqtt.core.aim import Aim
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.plan import Plan
from dsi_mqtt.core.sizes import MIB

# What requests under way lose when the tables change: about a round trip and a beat.
SWITCH_S: Final = 0.25
# By how much a node that loads weights computes more slowly, and bytes that it loads in a second.
LOADING: Final = 0.3
LOAD_BYTE_S: Final = 100 * MIB
# A gain that is less is an error of the figures, whatever it would bring.
NOISE: Final = 0.05
# A chain that would save so much if it still were as it was chosen has broken: no noise does that.
FALLEN: Final = 0.5


@dataclass(frozen=True, slots=True)
class Move:
    """From what serves to what was found. gain: share of the score that it saves (`gain`). saved_s,
    paid_s: seconds of service, as above. mends: it meets the target that the present placement
    misses.
    """

    deployment: Deployment
    present: Plan
    found: Plan
    gain: float
    saved_s: float
    paid_s: float
    mends: bool

    @classmethod
    def of(cls, spec: Deployment, present: Plan, found: Plan, loading_bytes: int) -> Move:
        """loading_bytes: the most that one node has to load before."""
        share = gain(present, found, Aim.of(spec))
        return cls(
            *(spec, present, found),
            gain=share,
            saved_s=share * spec.policy.horizon_s,
            paid_s=SWITCH_S + LOADING * loading_bytes / LOAD_BYTE_S,
            mends=found.meets_sla and not present.meets_sla,
        )

    @property
    def pays(self) -> bool:
        return not self.objection

    @property
    def objection(self) -> str:
        """Why it does not pay; "": it does."""
        policy = self.deployment.policy
        least = min(NOISE, policy.min_gain) if self.mends else policy.min_gain
        if self.gain <= least:
            return f"what was found saves no more than policy.min_gain ({policy.min_gain:g})"
        if self.saved_s <= self.paid_s:
            return "what was found saves less within policy.horizon_s than the way there costs"
        return ""


def has_fallen(present: Plan, chosen: Plan | None, spec: Deployment) -> bool:
    """Whether a chain promises so much less than when it was chosen that it should be left soon."""
    return chosen is not None and gain(present, chosen, Aim.of(spec)) >= FALLEN


def gain(old: Plan, new: Plan, aim: Aim) -> float:
    """The share of the score that `new` saves; of the busiest station's time where the load is
    more than one of them can bear.
    """
    before, after = old.score_s(aim), new.score_s(aim)
    if not math.isfinite(before) or not math.isfinite(after):
        before, after = old.busiest_s, new.busiest_s
    return 1.0 - after / before if before > 0 else 0.0
