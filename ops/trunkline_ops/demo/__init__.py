"""The whole way of an event, on real servers, with an audit at the end.

The story is told in `story`; its actors are programs of their own, as they would be in production: `writer`, the relay
(`trunkline relay`) and `subscriber`. All that they share is a database and a vhost, made for the occasion by `rooms`.
`audit` asks the tables, not the programs, whether everything has arrived, once and in order.
"""
