"""Parsing of the mends that the doctor prints: commands, and the words around them."""

import re

_BEGINS = "trunkline|rabbitmqctl|ALTER|SELECT|UPDATE|DELETE|CREATE|REVOKE|REINDEX|DROP|COMMIT PREPARED"
_ENDS = "; then |; to go on |; the |; for a |, or another"
_COMMAND = re.compile(rf"(?:(?<=: )|^)(?:{_BEGINS}) .*?(?=(?:{_ENDS}).*|$)", re.DOTALL)


def commands(mend: str) -> list[str]:
    """Return the commands of a mend: each begins the mend, or follows a colon."""
    return _COMMAND.findall(mend)
