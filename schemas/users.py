"""Events of users, and the vector made of them."""

from __future__ import annotations

from collections.abc import Iterator

from schemas.message import Count, Finite, Id, Message, Name, Vector
from schemas.tensor import Tensor
from schemas.times import TimeMs


class UserEvent(Message):
    """Something a user did with an item. Topic `events`, key `user_id`."""

    event_id: Id
    """Names the event: the same one sent twice counts once."""
    user_id: Id
    """The user; also the record's key, in UTF-8."""
    item_id: Id
    """The item."""
    event_type: Name
    """The action, as `view` or `purchase`."""
    event_time_ms: TimeMs
    """When it happened, milliseconds since 1970, UTC."""
    value: Finite | None = None
    """How much of it, where that has a meaning: seconds watched, stars given."""

    @property
    def key(self) -> bytes:
        """Key of the record."""
        return self.user_id.encode()


class UserVector(Message):
    """A user's vector in the space. Topic `user-vectors`, key `user_id`."""

    user_id: Id
    """The user; also the record's key, in UTF-8."""
    event_time_ms: TimeMs
    """Event time of the newest event in it."""
    num_events: Count
    """How many events it was computed from."""
    space_id: Name
    """The space. Vectors of different spaces cannot be compared."""
    vector: Vector
    """Shape [D], of unit length up to the rounding of its dtype."""
    produced_at_ms: TimeMs
    """When the vector was computed, milliseconds since 1970, UTC."""

    @property
    def key(self) -> bytes:
        """Key of the record."""
        return self.user_id.encode()

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield "vector", self.vector
