"""What a subscription follows: `$all`, a category, or a stream: pure.

A feed knows which messages of the broker are its own, and which of their chains is: the position before a message in
`$all`, in the category, in the stream.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from trunkline_store import InvalidArgument, names
from trunkline_store.events import category_of, check_category, check_stream
from trunkline_store.wire import Placement

ALL: Final = "$all"
_CATEGORY: Final = "$category-"


class Kind(enum.Enum):
    ALL = "all streams"
    CATEGORY = "a category"
    STREAM = "a stream"


class Feed(NamedTuple):
    """name: of the category or the stream."""

    kind: Kind
    name: str

    @classmethod
    def all(cls) -> Feed:
        return cls(Kind.ALL, ALL)

    @classmethod
    def category(cls, category: str) -> Feed:
        """Raises `InvalidArgument`."""
        return cls(Kind.CATEGORY, check_category(category))

    @classmethod
    def stream(cls, stream: str) -> Feed:
        """Its own events, and those linked into it. Raises `InvalidArgument`."""
        if stream == ALL:
            raise InvalidArgument("stream '$all': use `subscribe_to_all_streams`, or a handler without a stream")
        return cls(Kind.STREAM, check_stream(stream))

    @classmethod
    def of(cls, label: str) -> Feed:
        """The feed that has this label. Raises `InvalidArgument`."""
        if label == ALL:
            return cls.all()
        category = label.removeprefix(_CATEGORY)
        return cls.stream(label) if category == label else cls.category(category)

    @property
    def label(self) -> str:
        """As it stands in the subscription's row. No stream's name begins with `$`."""
        return _CATEGORY + self.name if self.kind is Kind.CATEGORY else self.name

    def bindings(self, store: str) -> list[tuple[str, str]]:
        """Exchange and routing key of each binding that its queue has. It may get more than the feed: see `covers`."""
        match self.kind:
            case Kind.ALL:
                return [(names.exchange(store), "#")]
            case Kind.CATEGORY:
                return [(names.exchange(store), f"{names.word(self.name, names.MAX_CATEGORY_WORD)}.#")]
        category = names.word(category_of(self.name), names.MAX_CATEGORY_WORD)
        longest = names.MAX_KEY_BYTES - len(category.encode()) - names.MAX_TYPE_WORD - 2
        # A word that may be cut, at a place that the type decides, cannot be bound to.
        word = names.word(self.name, names.MAX_KEY_BYTES)
        word = word if len(word.encode()) <= longest else "*"
        return [
            (names.exchange(store), f"{category}.*.{word}"),
            (names.links_exchange(store), names.links_key(self.name)),
        ]

    def covers(self, headers: Mapping[str, Any]) -> bool:
        """Whether a message is of this feed: its queue may still be bound as a former subscription of the name was."""
        match self.kind:
            case Kind.ALL:
                return not headers.get("linked")
            case Kind.CATEGORY:
                return headers.get("category") == self.name and not headers.get("linked")
        return headers.get("stream") == self.name

    def previous(self, message: Placement) -> int:
        """The position before a message, in this feed."""
        match self.kind:
            case Kind.ALL:
                return message.previous_position
            case Kind.CATEGORY:
                return message.previous_in_category
        return message.previous_in_stream
