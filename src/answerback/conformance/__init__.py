"""Conformance cases: data files that say what goes over a socket, and what runs them.

Server cases run against a URL, client cases against a client behind an adapter. conformance/README.md has the format.
"""

from answerback.conformance.cases import BrokenCase, Case, ModelNeed, load_cases, load_models
from answerback.conformance.server import CannotConnect, Facts, Result, ServerRun, Verdict

__all__ = [
    "BrokenCase",
    "CannotConnect",
    "Case",
    "Facts",
    "ModelNeed",
    "Result",
    "ServerRun",
    "Verdict",
    "load_cases",
    "load_models",
]
