"""Messages to bytes and back. The only module of the package that knows msgpack."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any, Literal, TypeVar

import msgpack
from pydantic import ValidationError

from schemas.attributes import Value
from schemas.bounds import exceeded
from schemas.dead_letter import DeadLetter
from schemas.foreign import LOOKED_AT, is_packed_map, looks_like
from schemas.items import NewItem
from schemas.limits import CROWDED_BYTES, DEFAULT_LIMITS, UTF8_BYTES, Limits
from schemas.message import SCHEMA_VERSION, Fields, Message
from schemas.plain import PlainEvent, PlainItem, plain_event, plain_item
from schemas.reason import Reason, SchemaError
from schemas.tensor import all_finite
from schemas.users import UserEvent
from schemas.validation import printable, schema_error, upgraded, wire_type

M = TypeVar("M", bound=Message)


def encode(message: Message) -> bytes:
    """The message as a msgpack map: fields in their declared order, those at their default left out.

    Raises SchemaError rather than write what `decode` refuses.
    """
    if isinstance(message, DeadLetter) and not isinstance(message.reason, Reason):
        raise SchemaError(Reason.INVALID_FIELD, "reason", "is not one of the reasons of this version")
    _refuse_non_finite(message)
    try:
        fields = {"schema_version": message.version, **message.model_dump(exclude_defaults=True)}
        data: bytes = msgpack.packb(fields)
    except UnicodeEncodeError:
        raise SchemaError(Reason.INVALID_FIELD, "", "a string has characters that UTF-8 cannot hold") from None
    _refuse_larger(data, message.byte_limit, DEFAULT_LIMITS)
    return data


def encode_item_vector(
    item_id: str,
    revision: int,
    event_time_ms: int,
    space_id: str,
    dtype: Literal["f2", "f4", "bf2"],
    shape: Sequence[int],
    data: bytes,
    modalities: Sequence[str],
    produced_at_ms: int,
    source_offset: int | None,
    prior: float | None = None,
    modality_vectors: Mapping[str, bytes] | None = None,
    base_vector: bytes | None = None,
    attributes: Mapping[str, Value] | None = None,
    codes: Sequence[int] | None = None,
    code_space_id: str | None = None,
    disambiguator: int | None = None,
) -> bytes:
    """The bytes of `encode(ItemVector(…))` at a fifth of the cost, for good values: it checks nothing.

    `modality_vectors` and `base_vector` hold the bytes of each; dtype and shape are those of `data`.
    """
    fields: Fields = {
        "schema_version": SCHEMA_VERSION,
        "item_id": item_id,
        "revision": revision,
        "event_time_ms": event_time_ms,
        "space_id": space_id,
        "vector": {"dtype": dtype, "shape": shape, "data": data},
        "modalities": modalities,
    }
    if prior is not None:
        fields["prior"] = float(prior)
    if modality_vectors is not None:
        fields["modality_vectors"] = {
            modality: {"dtype": dtype, "shape": shape, "data": vector} for modality, vector in modality_vectors.items()
        }
    fields["produced_at_ms"] = produced_at_ms
    if source_offset is not None:
        fields["source_offset"] = source_offset
    if base_vector is not None:
        fields["base_vector"] = {"dtype": dtype, "shape": shape, "data": base_vector}
    if attributes:
        fields["attributes"] = attributes
    if codes is not None:
        fields["codes"] = codes
        fields["code_space_id"] = code_space_id
        fields["disambiguator"] = disambiguator
    return msgpack.packb(fields)  # type: ignore[no-any-return]


def encode_user_vector(
    user_id: str,
    event_time_ms: int,
    num_events: int,
    space_id: str,
    dtype: Literal["f2", "f4", "bf2"],
    shape: Sequence[int],
    data: bytes,
    produced_at_ms: int,
) -> bytes:
    """The bytes of `encode(UserVector(…))`, for good values: it checks nothing."""
    fields: Fields = {
        "schema_version": SCHEMA_VERSION,
        "user_id": user_id,
        "event_time_ms": event_time_ms,
        "num_events": num_events,
        "space_id": space_id,
        "vector": {"dtype": dtype, "shape": shape, "data": data},
        "produced_at_ms": produced_at_ms,
    }
    return msgpack.packb(fields)  # type: ignore[no-any-return]


def decode(message: type[M], data: bytes, *, check_values: bool = True, limits: Limits = DEFAULT_LIMITS) -> M:
    """The valid message in `data`, which is the value of a record. Raises SchemaError and nothing else.

    `check_values=False` leaves out one check, that tensor elements are finite, for a caller who makes it for
    many messages at once with `all_finite`.
    """
    _refuse_larger(data, message.byte_limit, limits)
    return _validated(message, _unpack(data, limits), check_values=check_values, limits=limits)


def decode_item(data: bytes, limits: Limits = DEFAULT_LIMITS) -> NewItem | PlainItem:
    """`decode(NewItem, data, check_values=False)` for who reads many: items of the usual kind come as a `PlainItem`, in
    a third of the time."""
    if limits is not DEFAULT_LIMITS or len(data) > CROWDED_BYTES:
        return decode(NewItem, data, check_values=False, limits=limits)
    fields = _unpack(data, limits)
    return plain_item(fields) or _validated(NewItem, fields, check_values=False, limits=limits)


def decode_event(data: bytes, limits: Limits = DEFAULT_LIMITS) -> UserEvent | PlainEvent:
    """`decode(UserEvent, data)`, likewise."""
    if limits is not DEFAULT_LIMITS or len(data) > CROWDED_BYTES:
        return decode(UserEvent, data, limits=limits)
    fields = _unpack(data, limits)
    return plain_event(fields) or _validated(UserEvent, fields, check_values=True, limits=limits)


def _validated(message: type[M], fields: Fields, *, check_values: bool, limits: Limits) -> M:
    fields = _without_nils(message, fields)
    version = fields.get("schema_version")
    if version != message.version or type(version) is not int:
        fields = upgraded(message, fields)
    try:
        value: M = message.__pydantic_validator__.validate_python(fields)
    except ValidationError as error:
        raise schema_error(error) from None
    if check_values:
        _refuse_non_finite(value)
    if limits is not DEFAULT_LIMITS and (bound := exceeded(value, limits)):
        raise SchemaError(Reason.TOO_LARGE, printable(bound[0]), f"is over limits.{bound[1]} of this reader")
    return value


def packed(fields: Fields) -> bytes:
    """Fields as a message, unchecked."""
    return msgpack.packb(fields)  # type: ignore[no-any-return]


def unpacked(data: bytes) -> Fields:
    """The fields of a message that was written here."""
    return msgpack.unpackb(data)  # type: ignore[no-any-return]


def _without_nils(message: type[Message], fields: Fields) -> Fields:
    """The fields without those that are nil for want of a value, as several languages write them."""
    if None in fields.values():
        fields = {name: value for name, value in fields.items() if value is not None or name not in message.optional}
    for name in message.maps:
        entries = fields.get(name)
        if type(entries) is dict and None in entries.values():
            fields[name] = {key: value for key, value in entries.items() if value is not None}
    return fields


def split_messages(chunks: Iterable[bytes], limits: Limits = DEFAULT_LIMITS) -> Iterator[bytes]:
    """The encoded messages that lie one after another in a stream of bytes, each whole and as yet unchecked.

    Holds one chunk and one message at a time. Raises SchemaError where the stream cannot be divided any further.
    """
    unpacker, rest, start = msgpack.Unpacker(max_buffer_size=0), bytearray(), 0
    for chunk in chunks:
        unpacker.feed(chunk)
        rest += chunk
        first = 0
        for end in _ends(unpacker):
            yield bytes(rest[first : end - start])
            first = end - start
        del rest[:first]
        start += first
        if len(rest) > limits.dead_letter_bytes:
            raise SchemaError(Reason.TOO_LARGE, "", f"a message is over the limit of {limits.dead_letter_bytes} bytes")
    if rest:
        raise SchemaError(Reason.NOT_MSGPACK, "", "the data end in the middle of a message")


def _ends(unpacker: Any) -> Iterator[int]:
    """Where the messages end of which all bytes have been fed, counted from the first byte of the stream."""
    while True:
        try:
            unpacker.skip()
        except msgpack.OutOfData:
            return
        except (ValueError, RecursionError) as error:
            raise _unpack_error(error) from None
        yield unpacker.tell()


def _refuse_larger(data: bytes, byte_limit: str, limits: Limits) -> None:
    limit = getattr(limits, byte_limit)
    if len(data) > limit:
        raise SchemaError(Reason.TOO_LARGE, "", f"the message has {len(data)} bytes, the limit is {limit}")


def _refuse_non_finite(message: Message) -> None:
    if not all_finite(tensor for _, tensor in message.tensors()):
        path = next(path for path, tensor in message.tensors() if not tensor.is_finite())
        raise SchemaError(Reason.NON_FINITE, f"{printable(path)}.data", "has elements that are NaN or infinite")


def _unpack_options(limits: Limits) -> dict[str, Any]:
    return {
        "raw": False,
        "strict_map_key": True,
        "max_str_len": UTF8_BYTES * max(limits.text_chars, limits.uri_chars, limits.id_chars, limits.name_chars),
        "max_bin_len": max(limits.message_bytes, limits.dead_letter_bytes),
        "max_array_len": limits.array_items,
        "max_map_len": limits.map_keys,
        "max_ext_len": 0,
    }


_DEFAULT_OPTIONS = _unpack_options(DEFAULT_LIMITS)


def _unpack(data: bytes, limits: Limits) -> Fields:
    """The map in `data`. A length it announces is checked before anything of that length is made."""
    options = _DEFAULT_OPTIONS if limits is DEFAULT_LIMITS else _unpack_options(limits)
    if len(data) > CROWDED_BYTES:
        options = options | _counting_hooks(limits.containers)
    try:
        fields = msgpack.unpackb(data, **options)
    except (ValueError, RecursionError) as error:  # every error of msgpack is a ValueError
        problem = _unpack_error(error)
        raise _foreign(data, str(problem)) or problem from None
    if type(fields) is not dict:
        problem = SchemaError(Reason.INVALID_FIELD, "", f"the message should be a map, got {wire_type(fields)}")
        inner = _wrapped(fields, str(problem)) if isinstance(fields, str | bytes) else _foreign(data, str(problem))
        raise inner or problem
    return fields


def _foreign(data: bytes, problem: str) -> SchemaError | None:
    """The error of a value in another format, where it can be told."""
    name = looks_like(data)
    return None if name is None else SchemaError(Reason.NOT_MSGPACK, "", f"looks like {name}: {problem}")


def _wrapped(value: str | bytes, problem: str) -> SchemaError | None:
    """The same of a msgpack str or bin that holds a message, or something in another format."""
    data = value if isinstance(value, bytes) else value[:LOOKED_AT].encode()
    name = "a msgpack map, packed a second time" if is_packed_map(data) else looks_like(data)
    return None if name is None else SchemaError(Reason.INVALID_FIELD, "", f"{problem}, which looks like {name}")


class _CrowdedError(ValueError):
    """More maps and arrays than `Limits.containers`."""


def _counting_hooks(limit: int) -> dict[str, Callable[[Any], Any]]:
    """Stops a message made of empty containers, which take 70 times their size in memory.

    A small message is not counted: its size is bound enough, and counting slows the hot path.
    """
    containers = count(1)

    def counted(container: Any) -> Any:
        if next(containers) > limit:
            raise _CrowdedError(f"the message has more than {limit} maps and arrays")
        return container

    return {"object_hook": counted, "list_hook": counted}


def _unpack_error(error: Exception) -> SchemaError:
    text = str(error)
    if isinstance(error, _CrowdedError):
        return SchemaError(Reason.TOO_LARGE, "", text)
    elif isinstance(error, (msgpack.StackError, RecursionError)):
        return SchemaError(Reason.TOO_LARGE, "", "the message is nested too deeply")
    elif isinstance(error, msgpack.ExtraData):
        return SchemaError(Reason.NOT_MSGPACK, "", "there are bytes after the end of the message")
    elif isinstance(error, UnicodeDecodeError):
        return SchemaError(Reason.NOT_MSGPACK, "", "a str is not UTF-8")
    elif "max_ext_len" in text:
        return SchemaError(Reason.INVALID_FIELD, "", "there is an extension type; the contract uses none")
    elif "exceeds max_" in text:  # "1025 exceeds max_array_len(1024)"
        return SchemaError(Reason.TOO_LARGE, "", f"a length is over the limit: {text}")
    elif "map key" in text:
        return SchemaError(Reason.INVALID_FIELD, "", "there is a map key that is not a str")
    return SchemaError(Reason.NOT_MSGPACK, "", "the value is not a complete msgpack message")
