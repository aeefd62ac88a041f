"""How the programs of `ops` end."""

import signal
import subprocess
import sys
from signal import Signals

import pytest

_PROGRAM = """
import asyncio, sys
from trunkline_ops.program import run

async def work():
    helper = asyncio.create_task(asyncio.Event().wait())
    try:
        print("begun", flush=True)
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0.01)  # a turn of the loop: what else was cancelled is done now
        print("helper cancelled" if helper.done() else "in order", flush=True)

def command() -> int:
    asyncio.run(work())
    return 0

sys.exit(run(command, "ops/command"))
"""


@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_program_in_good_order(told: Signals) -> None:
    """Its main task is cancelled, and what that needs to end in good order goes on meanwhile; also where the shell had
    SIGINT ignored, as scripts do for what runs behind them."""
    with subprocess.Popen(
        ["sh", "-c", 'trap "" INT; exec "$0" -c "$1"', sys.executable, _PROGRAM],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as program:
        try:
            assert program.stdout is not None
            assert program.stdout.readline() == "begun\n"
            program.send_signal(told)
            assert program.communicate(timeout=20) == ("in order\n", "")
        finally:
            program.kill()
    assert program.returncode == 128 + told
