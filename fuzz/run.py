"""Search for inputs that break something, guided by coverage.

Usage: python fuzz/run.py [TARGET ...] [--seconds 60] [--keep]

Each target in turn, for that long, from fuzz/corpus/TARGET.txt and what earlier runs found (.cache/fuzz/TARGET). An
input that breaks something ends its target's run, is printed as a line for the corpus, and makes the exit code 1.
`--keep` writes what reaches new code back to fuzz/corpus, minimised. Needs fuzz/requirements.txt in .cache/atheris:

    python -m pip install --require-hashes --only-binary :all: --target .cache/atheris -r fuzz/requirements.txt
"""

import argparse
import hashlib
import os
import subprocess
import sys
from pathlib import Path

from harness import TARGETS, corpus
from harness.cover import smallest_cover

ROOT = Path(__file__).parent.parent
ENGINE = ROOT / ".cache" / "atheris"
FOUND = ROOT / ".cache" / "fuzz"
SLOW_S = 10
MAX_INPUT_BYTES = 4_096
KEPT_INPUTS = 60
KEPT_BYTES = 700
"""The corpus is read by people and tried in every test run: few inputs, small ones first."""


def main() -> int:
    """Fuzz every named target; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all if none is named")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--keep", action="store_true", help="write what was found back to fuzz/corpus")
    options = parser.parse_args()
    if unknown := set(options.targets) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    if not ENGINE.is_dir():
        parser.error(f"{ENGINE} is missing; see the first lines of {__file__} for how to make it")
    broken = [name for name in options.targets or TARGETS if not fuzz(name, options.seconds, keep=options.keep)]
    print(f"broken: {', '.join(broken)}" if broken else "nothing broke")
    return 1 if broken else 0


def fuzz(name: str, seconds: int, *, keep: bool) -> bool:
    """One target; whether nothing broke."""
    folder = FOUND / name
    folder.mkdir(parents=True, exist_ok=True)
    for data in corpus.inputs(name):
        (folder / hashlib.sha256(data).hexdigest()[:32]).write_bytes(data)
    crash = FOUND / f"{name}.crash"
    crash.unlink(missing_ok=True)
    print(f"--- {name}, {seconds} s", flush=True)
    done = _engine(name, folder, f"-max_total_time={seconds}", f"-exact_artifact_path={crash}", "-print_final_stats=1")
    if done.returncode == 0:
        print("\n".join(line for line in done.stdout.splitlines() if line.startswith(("stat::number_of", "Done "))))
    else:
        print(done.stdout[-4_000:])
        if crash.exists():
            print(f"add to fuzz/corpus/{name}.txt, under its regressions:\n{crash.read_bytes()!r}")
    if keep:
        _keep(name, folder)
    return done.returncode == 0


def _keep(name: str, folder: Path) -> None:
    """Put the inputs that together reach everything into the corpus, small ones first."""
    inputs = sorted((path.read_bytes() for path in folder.iterdir()), key=lambda data: (len(data), data))
    small = [data for data in inputs if len(data) <= KEPT_BYTES]
    kept = smallest_cover(TARGETS[name], small)[:KEPT_INPUTS]
    corpus.write(name, kept)
    print(f"{len(kept)} of {len(inputs)} inputs are kept", flush=True)


def _engine(name: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the engine in a process of its own: it never returns."""
    common = (f"-max_len={MAX_INPUT_BYTES}", f"-timeout={SLOW_S}", "-rss_limit_mb=2048", "-verbosity=1")
    return subprocess.run(
        [sys.executable, str(Path(__file__).parent / "engine.py"), name, str(folder), *options, *common],
        env={**os.environ, "PYTHONPATH": str(ENGINE), "PYTHONHASHSEED": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )


if __name__ == "__main__":
    sys.exit(main())
