"""When a connection is given up, without a socket."""

from answerback.client.liveness import Liveness
from answerback.client.timing import Timing


def test_a_connection_on_which_nothing_answers_is_given_up_and_one_that_answers_is_not() -> None:
    liveness = Liveness(Timing(dead_s=8.0))
    liveness.opened(now=0.0)
    liveness.asked(now=10.0)
    assert liveness.failure(now=17.9) is None
    assert liveness.failure(now=18.0) is not None
    liveness.received(now=18.0)
    assert liveness.failure(now=100.0) is None, "nothing was asked since"
