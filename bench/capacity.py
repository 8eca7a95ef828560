"""How much machine a gateway needs: the table of docs/operate.md, in Markdown.

    python bench/capacity.py                     some three minutes on two cores
    python bench/capacity.py --apps 200,5000     rows for other numbers of apps

Every app is connected. A share of them has an answer on its way at any time: 100 words, one every 20 ms. Each frame is
checked, and a row with a wrong answer ends the run. The load runs on the same machine, so give it a core of its own.
"""

import argparse
import asyncio
import os
import platform
import resource
import sys
import tempfile
from pathlib import Path

from answerback_proof.load.figures import Report, loop_factory, measured_gateway, report_of
from answerback_proof.load.load import Load, Plan
from answerback_proof.load.process import running, usage_of

WORDS, DELAY_MS = 100, 20
ANSWER_S = WORDS * DELAY_MS / 1000
SHARES = (0.1, 1.0)
ALL_STREAM = 500
"""Up to so many apps also all at once."""


async def measured(apps: int, share: float) -> tuple[Report, int]:
    """The figures of a gateway with so many apps, and the bytes of its database afterwards."""
    with tempfile.TemporaryDirectory(prefix="answerback-capacity-") as folder:
        data_dir = Path(folder) / "data"
        command = measured_gateway(data_dir, model=f"echo:delay_ms={DELAY_MS}")
        async with running(command) as server:
            rate = None if share == 1 else apps * share / ANSWER_S
            plan = Plan(url=server.url, apps=apps, requests=5 if share == 1 else 1, rate=rate, stream=True, words=WORDS)
            async with Load(plan) as load:
                before = usage_of(server.pid)
                run = await load.run()
                after = usage_of(server.pid)
        return report_of(run, before=before, after=after), (data_dir / "answerback.db").stat().st_size


def row(apps: int, share: float, report: Report, size: int) -> str:
    cells = (
        f"{apps:,}",
        f"{apps * share:,.0f}",
        f"{report.requests_per_s:,.0f}",
        f"{(report.server_cpu_share or 0) * 100:.0f} %",
        f"{(report.server_rss_bytes or 0) / 1e6:.0f} MB",
        "-" if report.first_text is None else f"{report.first_text.p99:.0f} ms",
        f"{size / max(1, report.requests) / 1000:.1f} kB",
    )
    return f"| {' | '.join(cells)} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--apps", default="100,500,1000,2000", help="numbers of apps, with commas between them")
    numbers = [int(number) for number in parser.parse_args().apps.split(",")]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(f"{os.cpu_count()} cores, {platform.system()}, CPython {platform.python_version()}, SQLite\n")
    print("| apps | streams at once | answers/s | CPU of a core | memory | first words p99 | database, an answer |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        for apps in numbers:
            for share in SHARES if apps <= ALL_STREAM else SHARES[:1]:
                report, size = runner.run(measured(apps, share))
                print(row(apps, share, report, size), flush=True)
                if not report.is_clean:
                    print(report.rows(), file=sys.stderr)
                    return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
