"""The wire contract: the messages on the topics, as values and as bytes. README.md is for other languages."""

from schemas.attributes import AttributeValue
from schemas.codec import (
    decode,
    decode_event,
    decode_item,
    encode,
    encode_item_vector,
    encode_user_vector,
    split_messages,
)
from schemas.dead_letter import DeadLetter
from schemas.export import MESSAGES, json_schema
from schemas.information import Judged, judge, suspects
from schemas.items import Content, ItemVector, NewItem
from schemas.json_form import Elements, Envelope, as_json, decode_vector
from schemas.limits import DEFAULT_LIMITS, Limits
from schemas.message import SCHEMA_VERSION, Message
from schemas.plain import AnyFeature, PlainEvent, PlainFeature, PlainItem, as_model
from schemas.reason import Reason, SchemaError
from schemas.tensor import Dtype, Feature, Tensor, all_finite
from schemas.times import looks_like_seconds, time_problem
from schemas.users import UserEvent, UserVector

__all__ = [
    "DEFAULT_LIMITS",
    "MESSAGES",
    "SCHEMA_VERSION",
    "AnyFeature",
    "AttributeValue",
    "Content",
    "DeadLetter",
    "Dtype",
    "Elements",
    "Envelope",
    "Feature",
    "ItemVector",
    "Judged",
    "Limits",
    "Message",
    "NewItem",
    "PlainEvent",
    "PlainFeature",
    "PlainItem",
    "Reason",
    "SchemaError",
    "Tensor",
    "UserEvent",
    "UserVector",
    "all_finite",
    "as_json",
    "as_model",
    "decode",
    "decode_event",
    "decode_item",
    "decode_vector",
    "encode",
    "encode_item_vector",
    "encode_user_vector",
    "json_schema",
    "judge",
    "looks_like_seconds",
    "split_messages",
    "suspects",
    "time_problem",
]
