"""`ops/servers`, as a newcomer uses it."""

import json
import os
import signal
import subprocess
import sys
from signal import Signals
from urllib.parse import urlsplit

import pytest


@pytest.mark.parametrize(("told", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_servers_stay_until_they_are_told_to_go(told: Signals, code: int) -> None:
    """What is printed, pasted into a shell, leads the command to servers of one's own, whatever the environment names;
    Ctrl-C or SIGTERM ends them, without a traceback, and nothing answers any more."""
    environment = os.environ | {"TRUNKLINE_DSN": "postgresql://elsewhere/", "TRUNKLINE_SERVERS": "embedded"}
    with subprocess.Popen(
        [sys.executable, "-m", "trunkline_ops.servers.stay"],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as servers:
        try:
            assert servers.stdout is not None
            pasted = servers.stdout.readline() + servers.stdout.readline()
            done = _shell(f"{pasted}trunkline create && trunkline status --json", stdout=subprocess.PIPE)
            shown = _shell(f'{pasted}echo "$TRUNKLINE_DSN $TRUNKLINE_AMQP_URL"', stdout=subprocess.PIPE)
            servers.send_signal(told)
            out, err = servers.communicate()
        finally:
            servers.kill()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["broker"]["problem"] is None
    assert [urlsplit(url).path for url in shown.stdout.split()] == ["/app", "/app"]
    assert (servers.returncode, out) == (code, "")
    assert "Traceback" not in err
    assert _shell(f"{pasted}trunkline read").returncode == 1


def _shell(lines: str, stdout: int | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", lines],
        env={"PATH": os.defpath},
        check=False,
        text=True,
        stdout=stdout or subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
