"""What a simulation costs: processor time and memory for so many nodes and requests.

Each deployment has a zone and its nodes, of which none holds more than half of the model; inputs
come at random to each, with faults among them where asked for.

    python benchmarks/simulation.py --nodes 1000 --requests 100000
"""

from __future__ import annotations

import argparse
import resource
import time
from typing import Final

from dsi_mqtt.core.deployment import Deployment, Privacy, Sla
from dsi_mqtt.core.model import ModelSpec
from dsi_mqtt.core.sizes import KIB
from dsi_mqtt.sim.report import report_of
from dsi_mqtt.sim.scenario import Fault, Group, Line, Requests, Scenario
from dsi_mqtt.sim.simulation import Simulation

RATE_PER_S: Final = 20.0  # of each deployment
FROM_S: Final = 15.0
MODEL: Final = {"units": 6, "unit_ms": 10.0, "weight_mib": 10.0, "hidden": 4096}


def site(nodes: int, requests: int, deployments: int, kills: int, trace: str | None) -> Scenario:
    names = [f"d{number}" for number in range(deployments)]
    each = nodes // deployments
    seconds = requests / RATE_PER_S / deployments
    return Scenario(
        tuple(
            Group(
                f"{name}-gw", each, zone=name, memory_mib=32.0, link=Line(rtt_ms=4.0, trace=trace)
            )
            for name in names
        ),
        tuple(
            Deployment(
                name,
                ModelSpec(tier="fake", options={**MODEL, "seed": number}),
                sla=Sla(rate_per_s=RATE_PER_S),
                privacy=Privacy(units={"0:6": (name,)}),
            )
            for number, name in enumerate(names)
        ),
        tuple(Requests(name, rate_per_s=RATE_PER_S, from_s=FROM_S) for name in names),
        tuple(
            Fault(
                FROM_S + seconds * (number + 1) / (kills + 1),
                20.0,
                kill=f"{names[number % deployments]}-gw-{number // deployments % each + 1}",
            )
            for number in range(kills)
        ),
        duration_s=FROM_S + seconds,
    )


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    asked.add_argument("--nodes", type=int, default=1000)
    asked.add_argument("--requests", type=int, default=100_000)
    asked.add_argument("--deployments", type=int, default=10)
    asked.add_argument("--kills", type=int, default=0, help="nodes that end, each for 20 s")
    asked.add_argument("--trace", help="drive, walk or wire, for every link")
    given = asked.parse_args()
    began = time.process_time()
    made = Simulation(
        site(given.nodes, given.requests, given.deployments, given.kills, given.trace)
    )
    made.clock.run(FROM_S)
    ready = time.process_time()
    made.run()
    found = report_of(made)
    spent = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB / (1 << 20)
    told = found.deployments
    print(f"{given.nodes} nodes, {sum(d.inputs for d in told)} inputs, {found.events} events")
    print(f"{spent:.1f} s of one core ({ready - began:.1f} s until all serve), {peak:.0f} MiB")
    errors = sum(sum(each.errors.values()) for each in told)
    print(f"{sum(d.results for d in told)} results, {errors} errors")
    print(f"{sum(d.abandoned for d in told)} unanswered, {sum(d.moves for d in told)} moves")
    print(f"{found.simulated_s:.0f} s simulated, journal {found.journal}")


if __name__ == "__main__":
    main()
