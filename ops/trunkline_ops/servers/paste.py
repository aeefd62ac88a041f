"""What a person pastes into another terminal, so that the command `trunkline` works there: pure."""

import shlex
import sys
from pathlib import Path


def to_paste(dsn: str, amqp_url: str, management_url: str) -> str:
    """Lines for a shell: this Python's virtual environment, and where the servers are."""
    urls = {"TRUNKLINE_DSN": dsn, "TRUNKLINE_AMQP_URL": amqp_url, "TRUNKLINE_MANAGEMENT_URL": management_url}
    export = " ".join(["export", *(f"{name}={shlex.quote(url)}" for name, url in urls.items())])
    return f". {shlex.quote(str(Path(sys.prefix, 'bin', 'activate')))}\n{export}"
