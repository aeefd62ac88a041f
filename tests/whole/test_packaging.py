"""What is installed, and that it gets on with the service into which it is installed."""

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = {
    "trunkline_store": ROOT / "store",
    "trunkline_relay": ROOT / "relay",
    "trunkline_consumer": ROOT / "consumer_sdk",
    "trunkline_ops": ROOT / "ops",
}

SERVICE = """
import importlib, pkgutil
import store, relay  # the service's own
import trunkline_store, trunkline_relay, trunkline_consumer, trunkline_ops

assert store.OWN and relay.OWN
for package in (trunkline_store, trunkline_relay, trunkline_consumer, trunkline_ops):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    print(package.__path__[0])
"""


def run(*command: object, cwd: Path = ROOT) -> str:
    """What a command prints; fails with all that it printed."""
    done = subprocess.run(
        [str(each) for each in command],
        check=False,
        cwd=cwd,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_wheel_holds_the_four_packages_whole_and_nothing_else(tmp_path: Path) -> None:
    """Each source file, the SQL and the marks for type checkers are in the wheel; tests and scripts are not."""
    run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    sources = {
        str(file.relative_to(source))
        for package, source in SOURCES.items()
        for file in (source / package).rglob("*")
        if file.is_file() and file.suffix != ".pyc"
    }
    assert names == sources
    assert {f"{package}/py.typed" for package in SOURCES} <= names
    assert any(name.endswith(".sql") for name in names)


@pytest.mark.parametrize("how", ["plain", "editable"])
def test_a_service_with_its_own_store_and_relay_can_use_it(how: str, tmp_path: Path) -> None:
    """Installed into a fresh environment, all our modules can be imported beside `store` and `relay` of others."""
    run(sys.executable, "-m", "uv", "venv", "--quiet", "--python", sys.executable, tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    # Hatchling and what we depend on come from this environment, without our own installation in it: a path file
    # adds the folder, and the path files in that folder do not count.
    (purelib,) = (tmp_path / "venv").glob("lib/*/site-packages")
    (purelib / "others.pth").write_text(sysconfig.get_path("purelib"))
    what = [ROOT] if how == "plain" else ["--editable", ROOT]
    run(sys.executable, "-m", "uv", "pip", "install", "--python", python, "--no-deps", "--no-build-isolation", *what)

    service = tmp_path / "service"
    for name in ("store", "relay"):
        (service / name).mkdir(parents=True)
        (service / name / "__init__.py").write_text("OWN = True\n")
    (service / "main.py").write_text(SERVICE)
    folders = [Path(line) for line in run(python, "main.py", cwd=service).splitlines()]
    sources = {"plain": dict.fromkeys(SOURCES, purelib), "editable": SOURCES}[how]
    assert folders == [source / package for package, source in sources.items()]


def test_the_source_folders_hold_one_package_each() -> None:
    """An editable installation puts them on the import path: another module there could hide a service's own."""
    for package, source in SOURCES.items():
        modules = {each.name for each in source.iterdir() if each.suffix == ".py" or (each / "__init__.py").exists()}
        assert modules == {package}
