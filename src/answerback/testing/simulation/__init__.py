"""The real client session, front, worker, janitor and state tables over a simulated network, queue, store and clock.

Every fault is drawn from the seed, one random stream a concern, so a run is repeated exactly by its seed. The checks
look from the outside: what each app saw, what the store holds, how often the model ran.
"""

from answerback.testing.simulation.faults import AWS, CALM, GATEWAY, Faults
from answerback.testing.simulation.world import Report, Violation, simulate

__all__ = ["AWS", "CALM", "GATEWAY", "Faults", "Report", "Violation", "simulate"]
