import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


def test_every_test_states_its_claim() -> None:
    """Each test has a docstring, which says what would not be true if it failed."""
    silent = [
        f"{file.relative_to(TESTS)}:{node.lineno} {node.name}"
        for file in TESTS.rglob("test_*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and ast.get_docstring(node) is None
    ]
    assert silent == []


def test_the_map_of_the_stores_claims_names_tests_that_exist() -> None:
    """`file: name` in tests/store/README.md is a test of that file; and each file of tests there is named."""
    text = (TESTS / "store" / "README.md").read_text()
    files = {file.stem.removeprefix("test_"): file.read_text() for file in (TESTS / "store").glob("test_*.py")}
    claims = re.findall(r"`(\w+): (\w+)`", text)
    assert len(claims) > 100
    assert [claim for claim in claims if f"def test_{claim[1]}(" not in files.get(claim[0], "")] == []
    assert [name for name in files if f"`test_{name}.py`" not in text] == []


def test_the_map_of_the_sdks_claims_names_tests_that_exist() -> None:
    """As above, for tests/consumer_sdk/README.md."""
    text = (TESTS / "consumer_sdk" / "README.md").read_text()
    files = {file.stem.removeprefix("test_"): file.read_text() for file in (TESTS / "consumer_sdk").glob("test_*.py")}
    claims = re.findall(r"`(\w+): (\w+)`", text)
    assert len(claims) > 30
    assert [claim for claim in claims if f"def test_{claim[1]}(" not in files.get(claim[0], "")] == []


@pytest.mark.parametrize("package", ["store", "relay", "consumer_sdk", "ops"])
def test_the_map_of_a_package_names_its_modules(package: str) -> None:
    """Every module and folder of modules stands in the map of the package's guide, and nothing else does."""
    folder = TESTS.parent / package
    (code,) = folder.glob("trunkline_*")
    section = (folder / "README.md").read_text().partition("\n## The way of the data\n")[2].partition("\n## ")[0]
    drawn = "".join(re.findall(r"^    .*\n", section, re.MULTILINE))
    named = {*re.findall(r"\b\w+\.py\b", drawn), *re.findall(r"^    (\w+/)", drawn, re.MULTILINE)}
    modules = {file.name for file in code.glob("*.py")} - {"__init__.py"}
    assert named == modules | {f"{init.parent.name}/" for init in code.glob("*/__init__.py")}
