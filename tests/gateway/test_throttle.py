import pytest

from answerback.gateway.sockets import TokenBucket


def test_a_burst_passes_and_then_the_rate_holds() -> None:
    bucket = TokenBucket(rate=10, burst=3, now=0)
    assert [bucket.take(now=0) for _ in range(3)] == [0, 0, 0]
    assert bucket.take(now=0) == pytest.approx(0.1)
    assert bucket.take(now=0) == pytest.approx(0.2), "a second connection of the user waits behind the first"


def test_it_refills_up_to_the_burst() -> None:
    bucket = TokenBucket(rate=10, burst=2, now=0)
    for _ in range(2):
        bucket.take(now=0)
    assert [bucket.take(now=100), bucket.take(now=100)] == [0, 0]
    assert bucket.take(now=100) == pytest.approx(0.1)


def test_no_rate_means_no_limit() -> None:
    bucket = TokenBucket(rate=0, burst=1, now=0)
    assert all(bucket.take(now=0) == 0 for _ in range(1000))
