"""`asyncapi`: what a store's messages look like, for tools."""

import json

from trunkline_ops.options import AsJson, Schema
from trunkline_ops.settings import Settings


def asyncapi(schema: Schema = None, as_json: AsJson = False) -> None:
    """Print the AsyncAPI 3 document of a store's messages, as JSON; with --json on one line. Asks no server."""
    from trunkline_relay.asyncapi import document

    print(json.dumps(document(Settings.of(store=schema).store), indent=None if as_json else 2))
