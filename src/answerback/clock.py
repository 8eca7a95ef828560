"""The wall clock, for the composition roots. Everything else gets its clock as an argument."""

import time


def epoch_ms() -> int:
    """Milliseconds since the epoch, now."""
    return time.time_ns() // 1_000_000
