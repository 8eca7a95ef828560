"""The packaged program: without arguments the desktop app, with arguments the whole `answerback` command.

The app starts its own gateway by calling itself, so the one program has to be both.
"""

import multiprocessing
import sys

from answerback.cli.entry import main

if __name__ == "__main__":
    multiprocessing.freeze_support()
    if len(sys.argv) == 1:
        sys.argv.append("desktop")
    main()
