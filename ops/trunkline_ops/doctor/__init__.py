"""What is, against what should be: facts are collected at the servers' edge, and judged by pure checks.

promised.py          what the migrations and the roles' SQL promise: pure
database_facts.py    facts.sql ──► facts of the database       database_checks.py    facts ──► findings: pure
                                                               activity_checks.py    facts ──► findings: pure
broker_facts.py      management API ──► facts of RabbitMQ      broker_checks.py      facts ──► findings: pure
mend.py              what mends a finding, as a line for a shell or psql: pure
examine.py           all of it
"""

from trunkline_ops.doctor.examine import examine
from trunkline_ops.doctor.finding import Finding

__all__ = ["Finding", "examine"]
