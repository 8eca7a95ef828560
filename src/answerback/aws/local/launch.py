"""Runs the emulator, with the patches, on the interpreter of the emulator's environment: `python -P launch.py`.

`emulator.py` starts it. It ends when its standard input closes, which is when the process that started it is gone.
"""

import os
import shutil
import signal
import sys
import threading
from importlib import import_module
from pathlib import Path


def _patch(temporary: Path) -> None:
    """Put the emulator right. What it is told must not reach the functions, which inherit the environment."""
    from answerback.aws.local.patches import data_api, formation, functions  # noqa: PLC0415

    told = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("EMULATED_")}
    formation.patch()
    functions.patch()
    if postgres := told.get("EMULATED_POSTGRES"):
        data_api.patch(postgres, temporary / "database-paused")


def _end_with_parent(temporary: Path) -> None:
    """Wait for the end of standard input, then end this process group and remove what it wrote."""
    while os.read(0, 4096):
        pass
    shutil.rmtree(temporary, ignore_errors=True)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def main() -> None:
    """Patch the emulator and run it until it is told to stop."""
    temporary = Path(os.environ["TMPDIR"])
    ours = str(Path(__file__).resolve().parents[3])
    sys.path.append(ours)
    _patch(temporary)
    sys.path.remove(ours)
    sys.argv[1:] = []  # the emulator reads its own options
    threading.Thread(target=_end_with_parent, args=(temporary,), daemon=True).start()
    import_module("ministack.app").main()


if __name__ == "__main__":
    main()
