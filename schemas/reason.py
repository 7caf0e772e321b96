"""Why a record could not be processed, and the error that carries the reason."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a record became a dead letter. The set is closed: metrics and alerts use the values as labels."""

    NOT_MSGPACK = "not_msgpack"
    """The value is not one complete msgpack message."""
    WRONG_FORMAT = "wrong_format"
    """The value is not in the format that is set for its topic, or its schema cannot be had."""
    TOO_LARGE = "too_large"
    """The message, or a part of it, is over a limit of the contract or of this reader."""
    UNSUPPORTED_VERSION = "unsupported_version"
    """`schema_version` is missing, too old, or newer than this reader."""
    INVALID_FIELD = "invalid_field"
    """A field is missing, of the wrong type, or out of range."""
    FUTURE_TIME = "future_time"
    """The event time lies further after the record's Kafka timestamp than the worker allows."""
    NON_FINITE = "non_finite"
    """A number or a tensor element is NaN or infinite."""
    KEY_MISMATCH = "key_mismatch"
    """The record's key is missing, or is not the id in the message."""
    WRONG_ENCODER = "wrong_encoder"
    """A feature was made by another encoder than the space expects."""
    WRONG_SHAPE = "wrong_shape"
    """A feature has another number of dimensions than the space expects."""
    NO_MODALITY = "no_modality"
    """The item has no modality that the space knows."""
    PARTIAL_UNSUPPORTED = "partial_unsupported"
    """The message is partial and this worker keeps no state to merge it into."""
    UNDECODABLE = "undecodable"
    """Raw content is empty, broken, or not of a type that its encoder reads."""
    DECODER_FAILED = "decoder_failed"
    """Reading raw content crashed the decoder, or took more time or memory than it may."""
    URI_REFUSED = "uri_refused"
    """The URI of raw content has a scheme, host, address or path that this worker may not read."""
    FETCH_FAILED = "fetch_failed"
    """The file that a URI of raw content names could not be had."""
    MODEL_FAILURE = "model_failure"
    """The model failed on this item alone."""
    UNREADABLE = "unreadable"
    """Not a record, but the bytes of a batch that could not be read and was left out of the log."""
    PUBLISH_REFUSED = "publish_refused"
    """The broker or the client refused the result."""


class SchemaError(ValueError):
    """A message breaks the wire contract. The text names the field and what is wrong; it quotes no data."""

    def __init__(self, reason: Reason, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}" if field else problem)
        self.reason = reason
        self.field = field
        """Dotted path of the field, as `features.image.data`; empty when the message as a whole is wrong."""
