"""Data as it is stored, of whatever content type: it is passed on, never decoded."""

from __future__ import annotations

from trunkline_store.serialize import ANY_CONTENT


class AsStored:
    """A serializer whose values are the bytes themselves. content_type: the only one that the store may have."""

    def __init__(self, content_type: str = ANY_CONTENT) -> None:
        self.content_type = content_type

    def serialize(self, value: bytes) -> bytes:
        """The bytes."""
        return bytes(value)

    def deserialize(self, data: bytes | str, event_type: str) -> bytes:
        """The bytes; text comes from a column of JSON."""
        return data if isinstance(data, bytes) else data.encode()
