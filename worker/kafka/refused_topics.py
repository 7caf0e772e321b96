"""Reasons that keep a topic from being made or configured, and cures, in the same words for every client library."""

from __future__ import annotations

DEFAULT_MAX_MESSAGE_BYTES = 1_048_588  # the broker's own default


def cure(error: str, message: str) -> str:
    """Explain a broker's objection, and what helps. `error`: the name of its error, in the words of any library."""
    name = error.upper().replace("_", "").removesuffix("ERROR")
    if "AUTHORIZATION" in name:
        return (
            f"the broker's access control forbids it to our user: grant CREATE on them, or have them made ({message})"
        )
    if name == "INVALIDREPLICATIONFACTOR":
        return f"{message.rstrip('.')}: give --replication a number that the cluster has brokers for"
    if name == "POLICYVIOLATION":
        return f"a policy of the cluster forbids it ({message}): have them made as its owner wants them"
    if name in ("INVALIDCONFIGURATION", "INVALIDCONFIG"):
        return f"the broker takes no such configuration ({message})"
    if name in ("REQUESTTIMEDOUT", "TIMEDOUT"):
        return "the brokers did not agree in time, and may yet do it: look with `align-worker topics check`, try again"
    return f"{error}: {message}" if message else error
