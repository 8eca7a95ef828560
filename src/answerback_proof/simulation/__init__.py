"""The real client session, front, worker, janitor and state tables over a simulated network, queue, store and clock.

Every fault is drawn from the seed, one random stream a concern, so a run is repeated exactly by its seed. The checks
look from the outside: what each app saw, what the store holds, how often the model ran.
"""

from answerback_proof.simulation.campaign import Tally, run_cases, shrink
from answerback_proof.simulation.case import Case, Report
from answerback_proof.simulation.injector import FAULT_NAMES, PROFILES, Faults
from answerback_proof.simulation.world import simulate

__all__ = ["FAULT_NAMES", "PROFILES", "Case", "Faults", "Report", "Tally", "run_cases", "shrink", "simulate"]
