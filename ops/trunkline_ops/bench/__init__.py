"""How fast it is, as a ratio to what the same machine can do at best in the same minute.

Absolute figures do not last on a shared machine, so each measure runs beside its floor, in turns, and what counts is
the median of the ratios of the rounds. A family of measures is a module here with one function, `measures`, which
yields them; `command` knows the families by name.

    sample     what is appended: 183 bytes of data, 58 of metadata
    lab        a PostgreSQL with real settings, and in it a database for each measure
    broker     a RabbitMQ, and in it a vhost for each measure and queues that stay small
    bare       the floor: asyncpg and one table, without an event store
    programs   relays, writers and timers in processes of their own
    load       callers that call as fast as they are answered
    messages   the sample as messages of the relay
    raw        the floor of publishing: prepared bytes on one socket
    line       writers, a relay and a subscriber, each a process of its own (steady, arrivals)
    rounds     turns, medians, ratios
    report     a table, lines of JSON, curves
"""
