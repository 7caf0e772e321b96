"""Why no array can be made of a content."""

from __future__ import annotations

from schemas import Reason


class ContentError(Exception):
    """A content cannot be used, and never will be. Poison, not a fault of the worker: it becomes a dead letter."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def undecodable(detail: str) -> ContentError:
    return ContentError(Reason.UNDECODABLE, detail)


def too_large(detail: str) -> ContentError:
    return ContentError(Reason.TOO_LARGE, detail)
