"""Proves, up to a position, that what is committed is confirmed by the broker and handled by each subscription; that
versions have no holes; that the order is one.

    queries.sql      pages of the tables, by their keys
    versions.py      rows of streams ──► holes, repeats, inversions: pure
    feeds.py         rows of $all ──► what of a subscription's feed is handled, parked, missing: pure
    run.py           all of it, page by page: memory does not grow with the store
"""

from trunkline_ops.verify.run import Part, verify

__all__ = ["Part", "verify"]
