import ast
from pathlib import Path

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
