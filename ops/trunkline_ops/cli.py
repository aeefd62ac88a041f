"""The program `trunkline`."""

import logging
import sys
import traceback


def main() -> None:
    """Runs the command that the arguments say, and exits."""
    try:
        from trunkline_ops.commands import app
        from trunkline_store.masking import masked
    except ModuleNotFoundError as error:
        if (error.name or "trunkline").startswith("trunkline"):
            raise
        sys.exit(f"error: {error.name} is missing: install trunkline[cli]")
    # Without a handler of any kind, Python prints what libraries log beside the one line of a failure.
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        app()
    except Exception:  # noqa: BLE001 - a bug, which keeps its traceback, but for passwords
        sys.exit(masked(traceback.format_exc()))


if __name__ == "__main__":
    main()
