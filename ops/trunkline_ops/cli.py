"""The program `trunkline`."""

import sys


def main() -> None:
    """Runs the command that the arguments say, and exits."""
    try:
        from trunkline_ops.commands import app
    except ModuleNotFoundError as error:
        if (error.name or "trunkline").startswith("trunkline"):
            raise
        sys.exit(f"error: {error.name} is missing: install trunkline[cli]")
    app()


if __name__ == "__main__":
    main()
