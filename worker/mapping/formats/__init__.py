"""The bytes of a record to a value: what stands in it, and no more. A file for each format; the library that one needs
is loaded where it is asked for."""

from __future__ import annotations

from typing import get_args

from worker.errors import ConfigError
from worker.mapping.envelopes import Parse
from worker.mapping.registry import Registry
from worker.settings import FormatName

FORMATS: tuple[FormatName, ...] = get_args(FormatName)
FRAMED: frozenset[FormatName] = frozenset({"avro", "protobuf"})
"""Those that say nothing without a schema from a registry."""

_OF_JSON = "pip install 'align-worker[json]'"
_INSTALL: dict[FormatName, str] = {
    "msgpack": _OF_JSON,
    "json": _OF_JSON,
    "json-schema": _OF_JSON,
    "avro": "pip install 'align-worker[avro]'",
    "protobuf": "pip install 'align-worker[protobuf]'",
}


def make_parser(name: FormatName, registry: Registry | None, setting: str) -> Parse:
    """The reader of a format. Raises `ConfigError`, which names the setting, where its library is not installed, or no
    registry is named. The reader raises `MisfitError` for what is not in its format, and `WorkerError` where the
    registry does not answer."""
    if name in FRAMED and registry is None:
        raise ConfigError(f"{setting}={name} needs input.registry.url, which names the schema registry")
    try:
        return _made(name, registry)
    except ImportError as error:
        raise ConfigError(f"{setting}={name} needs {error.name or 'a library'}: {_INSTALL[name]}") from None


def _made(name: FormatName, registry: Registry | None) -> Parse:
    if name == "msgpack":
        from worker.mapping.formats.packed import parse_msgpack

        return parse_msgpack
    if name == "json":
        from worker.mapping.formats.text import parse_json

        return parse_json
    if name == "json-schema":
        from worker.mapping.formats.text import parse_framed_json

        return parse_framed_json
    assert registry is not None
    if name == "avro":
        from worker.mapping.formats.avro import AvroReader

        return AvroReader(registry)
    from worker.mapping.formats.protobuf import ProtobufReader

    return ProtobufReader(registry)
