"""A whole store as lines of JSON, and such lines as a store again.

item.py        events, links, deletions and snapshots ──► lines, and back; and their digest: pure
queries.sql    pages of what the store's own readers do not give
take_out.py    store ──► items, in the one order
put_in.py      items ──► an empty store, in the same order; what is there already is compared, and passed over
file.py        items ──► a file that can be gone on with
"""
