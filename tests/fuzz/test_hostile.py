"""A short attack on a real gateway process; `python fuzz/hostile.py` is the long one."""

import sys

import pytest

from attack.siege import besiege

FRAMES = 20_000


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="memory and descriptors are read from /proc")
@pytest.mark.timeout(180)
async def test_twenty_thousand_hostile_frames_harm_nobody() -> None:
    findings = await besiege(frames=FRAMES, seed=7, on_sample=lambda _: None)
    assert findings.problems == ()
    assert findings.frames >= FRAMES
    assert findings.answered == findings.asked > 0
    assert findings.rss_peak_bytes < findings.rss_start_bytes + 100_000_000
    assert sum(findings.rows.values()) < findings.frames / 2
