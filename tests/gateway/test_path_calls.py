"""The way of a question to its first text stays short."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
MOST_CALLS = 128
MOST_FILES = 29
"""What it takes today. Lower them when it takes less; raise them for a good reason only."""


def test_a_question_takes_few_calls_in_few_files_to_its_first_delta() -> None:
    script = ROOT / "scripts" / "path_calls.py"
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=True)
    found = re.search(r"^(\d+) calls in (\d+) files$", run.stdout, re.MULTILINE)
    assert found is not None, run.stdout
    assert int(found[1]) <= MOST_CALLS, run.stdout
    assert int(found[2]) <= MOST_FILES, run.stdout
