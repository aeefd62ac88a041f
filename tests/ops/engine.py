"""Whether a Docker engine answers here and has the images: what takes one is skipped elsewhere, with the reason."""

import os
import subprocess
from functools import cache

import pytest

IMAGES = {
    "POSTGRES_IMAGE": "postgres:17",
    "RABBITMQ_IMAGE": "rabbitmq:4-management",
    "PYTHON_IMAGE": "python:3.13-slim",
}


def docker(*arguments: str, environment: dict[str, str] | None = None) -> str:
    """What a command of Docker prints; fails with all that it printed."""
    done = subprocess.run(
        ["docker", *arguments],
        env={**os.environ, **(environment or {})},
        check=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, f"docker {' '.join(arguments)}:\n{done.stdout}"
    return done.stdout


@cache
def missing(*variables: str, compose: bool = False) -> str | None:
    """What is not there of an engine and of the images that these variables name, or None. Nothing is pulled."""
    try:
        docker("version")
        if compose:
            docker("compose", "version")
    except (OSError, AssertionError) as error:
        return f"no Docker engine answers, or it has no compose: {str(error).splitlines()[-1]}"
    for variable in variables:
        image = os.environ.get(variable) or IMAGES[variable]
        try:
            docker("image", "inspect", image)
        except AssertionError:
            return f"the Docker engine has no {image}: ops/compose-check gets it, or builds a stand-in"
    return None


def needs_engine(*variables: str, compose: bool = False) -> None:
    """Skips the test where it is missing."""
    if reason := missing(*variables, compose=compose):
        pytest.skip(reason)
