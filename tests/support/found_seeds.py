"""Runs of the simulation that once broke a promise."""

from answerback_proof.simulation import Case

FOUND = {
    "an outage while the question is read costs an attempt": Case(profile="gateway", seed=1),
    "an outage at the claim costs an attempt": Case(profile="outages", seed=7),
    "a slow connection gets a stored text from its start again": Case(profile="aws", seed=13),
    "a connection that missed the take-over does not learn of it with its next hello": Case(profile="aws", seed=2),
    "of a question that came twice the one that is not stored gives up the place of the other": Case(
        profile="watchers", seed=109
    ),
    "what is read while a watch is refused settles what ends until it is held": Case(
        profile="aws-watchers-quiet", seed=218
    ),
    "a restart leaves targets on dead connections in the records": Case(profile="gateway-quiet", seed=44),
}
"""By the bug of tests/planted/bugs.toml that each of them finds, which tests/planted holds."""
