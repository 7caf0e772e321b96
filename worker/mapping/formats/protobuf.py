"""Protobuf behind the header of a schema registry, as the JSON that its own documentation maps it to."""

from __future__ import annotations

import base64
import binascii
from typing import Any, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.message import DecodeError

from schemas import Reason
from worker.mapping.formats.framing import unframed
from worker.mapping.problem import MisfitError
from worker.mapping.registry import Cached, Registered, Registry

MAX_SCHEMAS = 64
_WELL_KNOWN = (
    "any", "api", "duration", "empty", "field_mask", "source_context", "struct", "timestamp", "type", "wrappers",
)  # fmt: skip


class _File(NamedTuple):
    pool: descriptor_pool.DescriptorPool
    descriptor: descriptor_pb2.FileDescriptorProto


class ProtobufReader:
    """Knows each schema after its first record. For one thread."""

    def __init__(self, registry: Registry) -> None:
        self._files = Cached(registry, "PROTOBUF", lambda found: _loaded(found, registry))
        self._classes: dict[tuple[int, tuple[int, ...]], Any] = {}

    def __call__(self, data: bytes) -> Any:
        schema_id, body = unframed(data)
        indexes, start = _indexes(body)
        kind = self._classes.get((schema_id, indexes))
        if kind is None:
            kind = self._classes[schema_id, indexes] = _message(self._files[schema_id], indexes, schema_id)
        try:
            message = kind.FromString(body[start:])
            return json_format.MessageToDict(
                message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
            )
        except (DecodeError, json_format.Error, ValueError, TypeError, RecursionError, OverflowError):
            raise MisfitError(f"is not Protobuf of schema {schema_id}", Reason.WRONG_FORMAT) from None


def _indexes(body: bytes) -> tuple[tuple[int, ...], int]:
    """Which message of the file it is, the outer ones first, and where it begins. One zero is the first message."""
    count, position = _zigzag(body, 0)
    if count == 0:
        return (0,), position
    if not 0 < count <= 16:
        raise MisfitError("does not say which message of its schema it is", Reason.WRONG_FORMAT)
    found = []
    for _ in range(count):
        index, position = _zigzag(body, position)
        found.append(index)
    return tuple(found), position


def _zigzag(body: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(body) and shift < 35:
        byte = body[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value >> 1 ^ -(value & 1), position
    raise MisfitError("does not say which message of its schema it is", Reason.WRONG_FORMAT)


def _loaded(found: Registered, registry: Registry) -> _File:
    """A file, with all that it imports."""
    pool = descriptor_pool.DescriptorPool()
    added: set[str] = set()

    def add(name: str, schema: Registered, depth: int) -> descriptor_pb2.FileDescriptorProto:
        if depth > MAX_SCHEMAS:
            raise MisfitError("has a schema that refers to itself", Reason.WRONG_FORMAT)
        file = _descriptor(schema)
        references = {imported: (subject, version) for imported, subject, version in schema.references}
        for imported in file.dependency:
            if imported in added:
                continue
            if imported in references:
                add(imported, registry.version(*references[imported], "PROTOBUF"), depth + 1)
            else:
                _add_known(pool, imported)
                added.add(imported)
        if name:
            file.name = name
        pool.Add(file)
        added.add(file.name)
        return file

    try:
        return _File(pool, add("", found, 0))
    except (TypeError, KeyError, ValueError) as error:
        told = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise MisfitError(f"has a schema that cannot be used: {told}", Reason.WRONG_FORMAT) from None


def _descriptor(schema: Registered) -> descriptor_pb2.FileDescriptorProto:
    try:
        return descriptor_pb2.FileDescriptorProto.FromString(base64.b64decode(schema.text, validate=True))
    except (binascii.Error, ValueError, DecodeError):
        raise MisfitError(
            "has a schema that the registry hands out as text only (?format=serialized is needed)", Reason.WRONG_FORMAT
        ) from None


def _add_known(pool: descriptor_pool.DescriptorPool, name: str) -> None:
    """A file that Protobuf itself comes with."""
    from importlib import import_module

    stem = name.removeprefix("google/protobuf/").removesuffix(".proto")
    if stem not in _WELL_KNOWN:
        raise KeyError(f"it imports {name}, which is not among its references")
    known = descriptor_pb2.FileDescriptorProto()
    import_module(f"google.protobuf.{stem}_pb2").DESCRIPTOR.CopyToProto(known)
    for imported in known.dependency:
        _add_known(pool, imported)
    pool.Add(known)


def _message(file: _File, indexes: tuple[int, ...], schema_id: int) -> Any:
    """The class of a message, by its number in each of those around it."""
    messages, name = file.descriptor.message_type, [file.descriptor.package] if file.descriptor.package else []
    try:
        if min(indexes) < 0:
            raise IndexError
        for index in indexes:
            name.append(messages[index].name)
            messages = messages[index].nested_type
    except IndexError:
        raise MisfitError(f"names a message that schema {schema_id} does not have", Reason.WRONG_FORMAT) from None
    return message_factory.GetMessageClass(file.pool.FindMessageTypeByName(".".join(name)))
