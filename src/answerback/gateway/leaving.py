"""The end of the gateway's process, also when code of the operator's own does not stop when it is told to."""

import asyncio
import logging
import os
import sys
import threading

log = logging.getLogger("answerback.gateway")


def leave_within(delay_s: float, loop: asyncio.AbstractEventLoop) -> None:
    """End the process with status 0 after `delay_s`, unless it has ended by then. For when all work is done.

    A task that ignores its cancellation keeps the event loop from closing, and a thread keeps the interpreter from
    leaving; neither can be ended but with the process.
    """

    def leave() -> None:
        tasks = sorted(f"task {task.get_name()}" for task in asyncio.all_tasks(loop))
        threads = sorted(
            f"thread {thread.name}"
            for thread in threading.enumerate()
            if not thread.daemon and thread is not threading.main_thread()
        )
        log.warning("the process ends without what does not stop: %s", ", ".join([*tasks, *threads]) or "unknown")
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(0)

    timer = threading.Timer(delay_s, leave)
    timer.name = "answerback-leaving"
    timer.daemon = True
    timer.start()
