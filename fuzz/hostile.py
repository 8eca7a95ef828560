"""Send hostile frames to a gateway and watch what it does.

Usage: python fuzz/hostile.py [--frames 1000000] [--attackers 12] [--good-clients 3] [--seed 1] [--json]

Starts `answerback serve --model echo` on a free port with a store of its own, and ends it. Exit code 1 if a good client
missed an answer, the gateway logged an error or died, file descriptors stayed open, or memory grew without end.
"""

import argparse
import asyncio
import json
import sys
from dataclasses import asdict

from answerback_proof.load.figures import loop_factory
from attack.siege import besiege
from attack.watch import Sample


def main() -> int:
    """Run one attack; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--attackers", type=int, default=12, help="connections at a time")
    parser.add_argument("--good-clients", type=int, default=3, help="good clients that ask meanwhile")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    attack = besiege(
        frames=options.frames,
        attackers=options.attackers,
        good_clients=options.good_clients,
        seed=options.seed,
        on_sample=_show if sys.stderr.isatty() else _quiet,
    )
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        findings = asdict(runner.run(attack))
    if options.json:
        print(json.dumps(findings, indent=2))
    else:
        for name, value in findings.items():
            print(f"{name}: {value}")
    return 1 if findings["problems"] else 0


def _show(sample: Sample) -> None:
    mega = 1_000_000
    line = (
        f"{sample.frames:>10,} frames  {sample.rss_bytes / mega:7.1f} MB  {sample.files:4} files  "
        f"{sample.database_bytes / mega:7.1f} MB stored"
    )
    print(line, end="\r", file=sys.stderr, flush=True)


def _quiet(_: Sample) -> None:
    """Nobody looks."""


if __name__ == "__main__":
    sys.exit(main())
