"""Runs a program of the demo, or of a soak, so that it never outlives it.

python -m trunkline_ops.demo.leash MODULE ARG ...: the demo holds the other end of the program's standard input. When
that is closed, be it that the program is to stop or that the demo is gone, however it went, the program gets SIGTERM;
and SIGKILL where that does not end it.
"""

import asyncio
import json
import os
import runpy
import signal
import sys
import threading
import time

STOP_SECONDS = 10


def told_to_stop() -> asyncio.Event:
    """For the program: an event that is set when it is to stop."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    return stop


def report(**figures: object) -> None:
    """For the program: tells the demo how things stand."""
    print(json.dumps(figures), flush=True)


def _hold() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=_hold, daemon=True).start()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
