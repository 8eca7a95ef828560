"""Conformance cases: data files that say what goes over a socket, and what runs them.

Server cases run against a URL, client cases against a client behind an adapter. conformance/README.md has the format.
"""

from answerback_proof.conformance.cases import BrokenCase, Case, ModelNeed, load_cases, load_models
from answerback_proof.conformance.client import Asked, ClientUnderTest, Outcome, run_client_case
from answerback_proof.conformance.peer import CaseFailed
from answerback_proof.conformance.server import CannotConnect, CaseStatus, Result, ServerFacts, ServerRun

__all__ = [
    "Asked",
    "BrokenCase",
    "CannotConnect",
    "Case",
    "CaseFailed",
    "CaseStatus",
    "ClientUnderTest",
    "ModelNeed",
    "Outcome",
    "Result",
    "ServerFacts",
    "ServerRun",
    "load_cases",
    "load_models",
    "run_client_case",
]
