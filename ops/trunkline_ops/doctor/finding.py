"""What the doctor has to say."""

from typing import Literal, NamedTuple


class Finding(NamedTuple):
    """Something that is not as it should be: its `subject`, what is the matter, what that means, and what mends it: a
    command, or SQL for psql. A `note` is no defect: a trap to know, or what could not be looked at. `code` is its name
    for programs, and does not change."""

    code: str
    subject: str
    problem: str
    means: str
    mend: str
    level: Literal["finding", "note"] = "finding"


def note(code: str, subject: str, problem: str, means: str, mend: str = "") -> Finding:
    """One that is no defect."""
    return Finding(code, subject, problem, means, mend, "note")
