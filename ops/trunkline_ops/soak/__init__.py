"""Everything at once, for as long as one likes: writers, relays and subscribers, while a seeded schedule kills, pauses,
cuts, restarts, purges and deletes at random everywhere, the servers included; and an audit at the end.

    schedule ──► faults ──► cast (writer, relay, subscriber, plain) and stage (servers, network)
                                      └──► the tables ──► audit

`story` tells it. The programs are processes of their own, as in the demo, whose way of running them this uses; here
each is started again when it ends. `controls` takes a guard out of a subscriber: then the audit must find something.
"""
