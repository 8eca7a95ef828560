"""What a run is made from, so that it can be repeated, made smaller, and named in one command; and its report."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from answerback_proof.history import Violation
from answerback_proof.simulation.injector import PROFILES, Faults

APPS: Final = 4
QUESTIONS: Final = 6
FAULTS_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One run. `faults_s`: virtual seconds in which faults are injected and apps ask. `without`: faults left out."""

    profile: str
    seed: int
    apps: int = APPS
    questions: int = QUESTIONS
    faults_s: float = FAULTS_S
    without: frozenset[str] = frozenset()

    @property
    def faults(self) -> Faults:
        """The profile less what is left out. Raises: ValueError: no such profile or fault."""
        profile = PROFILES.get(self.profile)
        if profile is None:
            raise ValueError(f"no such profile: {self.profile}; there are {', '.join(PROFILES)}")
        return profile.without(self.without)

    @property
    def command(self) -> str:
        """The command that repeats the run and prints its trace."""
        parts = ["answerback simulate", f"--profile {self.profile}", f"--seed {self.seed}"]
        if self.apps != APPS:
            parts.append(f"--apps {self.apps}")
        if self.questions != QUESTIONS:
            parts.append(f"--questions {self.questions}")
        if self.faults_s != FAULTS_S:
            parts.append(f"--storm {self.faults_s:g}")
        if self.without:
            parts.append(f"--without {','.join(sorted(self.without))}")
        return " ".join([*parts, "--trace"])


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
        return bool(self.violations)
