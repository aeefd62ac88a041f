"""What the doctor prints as a mend, taken apart: commands, and the words around them."""

import re

_BEGINS = "trunkline|rabbitmqctl|ALTER|SELECT|UPDATE|DELETE|CREATE|REVOKE|REINDEX|DROP|COMMIT PREPARED"
_ENDS = "; then |; to go on |; the |; for a |, or another"
_COMMAND = re.compile(rf"(?:(?<=: )|^)(?:{_BEGINS}) .*?(?=(?:{_ENDS}).*|$)", re.DOTALL)


def commands(mend: str) -> list[str]:
    """What of a mend is to be run: each begins the mend, or stands behind a colon."""
    return _COMMAND.findall(mend)
