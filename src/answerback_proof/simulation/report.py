"""What comes of a run."""

from collections import Counter
from dataclasses import dataclass, field

from answerback_proof.simulation.case import Case


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise: which of G1 to G7 (or `storm`, `thrift`, `history`, `limit`), and what was seen."""

    promise: str
    detail: str

    def __str__(self) -> str:
        return f"{self.promise}: {self.detail}"


@dataclass(slots=True, kw_only=True)
class Report:
    """What one case did. `faults`: how often each struck. `trace` has a line an event, with its virtual second."""

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
