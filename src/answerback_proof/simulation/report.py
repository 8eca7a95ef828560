"""What comes of a run."""

from collections import Counter
from dataclasses import dataclass, field

from answerback_proof.history import Violation
from answerback_proof.simulation.case import Case


@dataclass(slots=True, kw_only=True)
class Report:
    """What one case did. `faults`: how often each happened. `trace`: a line an event, with its virtual second."""

    case: Case
    violations: list[Violation]
    faults: Counter[str] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)
    asked: int = 0
    posts: int = 0
    model_runs: int = 0
    virtual_s: float = 0.0
    trace: list[str] = field(default_factory=list, repr=False)

    @property
    def failed(self) -> bool:
        """Whether a promise was broken."""
        return bool(self.violations)
