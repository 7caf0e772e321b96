"""A place in the group as the library writes it: opaque bytes, whose form librdkafka keeps stable for its bindings."""

from __future__ import annotations

import struct

from worker.kafka.port import Membership

_MAGIC = b"CGMDv2:"
_GENERATION = struct.Struct("=i")


def parsed(metadata: bytes | None) -> Membership | None:
    """None where the member has no place in the group."""
    if metadata is None or not metadata.startswith(_MAGIC):
        return None
    (generation,) = _GENERATION.unpack_from(metadata, len(_MAGIC))
    group_id, member_id, *rest = metadata[len(_MAGIC) + _GENERATION.size :].split(b"\0")
    # A member that was put out has generation -1, with which the broker takes transactional commits from anyone.
    if generation < 0 or not member_id:
        return None
    # Behind the member's id a byte says whether there is none (1) or one (0) to follow.
    named = rest[1] if len(rest) > 1 and not rest[0] else b""
    return Membership(group_id.decode(), generation, member_id.decode(), named.decode() or None)


def written(member: Membership) -> bytes:
    """The same in the library's form."""
    head = _MAGIC + _GENERATION.pack(member.generation) + member.group_id.encode() + b"\0" + member.member_id.encode()
    return head + (b"\0\1" if member.instance_id is None else b"\0\0" + member.instance_id.encode() + b"\0")
