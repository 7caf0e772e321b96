"""Failures of a request."""

from __future__ import annotations


class ServerFault(Exception):  # noqa: N818  # it says whose it is
    """The server's: no connection, no answer in time, a status of 5xx, nonsense. The same request may work later."""


class BusyError(Exception):
    """The server has too much to do, and says so."""

    def __init__(self, detail: str, retry_after_s: float | None) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class RefusedError(Exception):
    """The server does not take this request: something of it, or its size, is the reason."""

    def __init__(self, detail: str, *, is_size: bool) -> None:
        super().__init__(detail)
        self.is_size = is_size


class DeniedError(Exception):
    """The server does not know who we are, or has not what we ask for: no request will work until a person acts."""


class OtherModelError(Exception):
    """The server serves another model than the one that was asked for, or than before."""
