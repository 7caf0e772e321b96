"""Which server and which model a setting means: `openai+http://host/v1#model`. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import unquote

from worker.encode.uris import HostRule, UriError, WebUri, parse_endpoint
from worker.errors import ConfigError

PROTOCOLS = ("openai", "tei", "kserve", "vllm")
DEFAULT_PATH = {"openai": "/v1", "vllm": "/v1", "tei": "", "kserve": ""}
NAMES_MODEL = ("openai", "vllm", "kserve")
SHOWN_CHARS = 200

_SCHEME = re.compile(r"([a-z0-9]+)\+(https?://.*)", re.DOTALL)


class RemoteAddress(NamedTuple):
    protocol: str
    base: WebUri
    """Its target is the path that the calls of the protocol lie below."""
    model: str
    """Name of the model, as the server has it; empty where it has one only."""

    def __str__(self) -> str:
        return f"{self.protocol}+{self.base}" + (f"#{self.model}" if self.model else "")


def is_remote(model: str) -> bool:
    """Whether a setting means a server and not a directory."""
    return "://" in model


def parse_remote(model: str, hosts: Sequence[str]) -> RemoteAddress:
    """Raises `ConfigError` for what cannot be read, and for a host that is not among `hosts`."""
    shown = model.partition("#")[0][:SHOWN_CHARS]
    found = _SCHEME.fullmatch(model)
    if found is None or found[1] not in PROTOCOLS:
        if "@" in shown:
            raise ConfigError(
                "encode.encoders: credentials have no place in an address: name a file with the key in "
                "encode.remote.key_files"
            )
        raise ConfigError(
            f"encode.encoders: {shown!r} is no address of a server: it is written PROTOCOL+http://host:port#MODEL or "
            f"PROTOCOL+https://…, where PROTOCOL is {', '.join(PROTOCOLS)}"
        )
    protocol, (url, mark, name) = found[1], found[2].partition("#")
    try:
        base = parse_endpoint(url)
    except UriError as error:
        raise ConfigError(f"encode.encoders: an address of {protocol} cannot be used: {error}") from error
    named = unquote(name)
    if (protocol in NAMES_MODEL and not named) or (mark and not named):
        raise ConfigError(
            f"encode.encoders: {shown} names no model: write it behind a #, as {shown}#MODEL (and %40 for an @ in it)"
        )
    if not any(_rule(entry).admits(base) for entry in hosts):
        host = str(base._replace(target="")).partition("://")[2]
        raise ConfigError(
            f"encode.encoders: host {host!r} is not in encode.remote.hosts; content of items is sent to those listed "
            "there only"
        )
    if not (base.target or url.endswith("/")):  # a slash alone is the root, where some servers have it
        base = base._replace(target=DEFAULT_PATH[protocol])
    return RemoteAddress(protocol, base, named)


def _rule(entry: str) -> HostRule:
    try:
        return HostRule.parse(entry)
    except UriError as error:
        raise ConfigError(f"encode.remote.hosts: {entry!r}: {error}; expected host, host:port or *.domain") from error
