"""What a client says of an address where no connection comes about."""

import pytest

from answerback.client import AnswerbackError, Client, Obstacle, Timing


async def why(url: str, *, token: str | None = None) -> AnswerbackError:
    """Its error.

    What may pass is tried again for as long as the client may wait, so that is short. It was too short if nothing has
    answered by then: the machine has other things to do.
    """
    for patience_s in (0.5, 5, 50):
        timing = Timing(backoff_min_s=0.001, backoff_max_s=0.01, open_timeout_s=patience_s, close_s=0.1)
        with pytest.raises(AnswerbackError) as failed:
            async with Client(url, token=token, connect_timeout=patience_s, timing=timing):
                pass
        if getattr(failed.value, "obstacle", None) is not Obstacle.TIMEOUT:
            break
    return failed.value
