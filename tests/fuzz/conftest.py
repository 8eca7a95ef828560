"""The harnesses live outside the tests, because a fuzzing engine runs them too."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "fuzz"))
