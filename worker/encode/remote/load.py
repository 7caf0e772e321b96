"""The encoder behind an address."""

from __future__ import annotations

from pathlib import Path

from worker.encode.remote.address import RemoteAddress, parse_remote
from worker.encode.remote.client import Patience, ServerEncoder
from worker.encode.remote.protocols import protocol
from worker.encode.remote.transport import Transport
from worker.settings import RemoteSettings


def load_remote(
    model: str, settings: RemoteSettings, *, prompt: str = "", query_prompt: str | None = None
) -> ServerEncoder:
    """Raises `ConfigError` for an address that cannot be used, and `UnreachableError` for a server that does not
    answer."""
    address = parse_remote(model, settings.hosts)
    encoder = ServerEncoder(
        address,
        protocol(address.protocol, address.model),
        Transport(
            address.base,
            key_file=_key_file(address, settings),
            cafile=settings.cafile,
            timeout_s=settings.timeout_s,
            most=settings.concurrency,
        ),
        patience=Patience(settings.timeout_s, settings.deadline_s, settings.start_timeout_s, settings.check_s),
        concurrency=settings.concurrency,
        max_batch=settings.max_batch,
        prompt=prompt,
        query_prompt=query_prompt,
    )
    encoder.load()
    return encoder


def _key_file(address: RemoteAddress, settings: RemoteSettings) -> Path | None:
    host, port = address.base.host, address.base.port
    return settings.key_files.get(f"{host}:{port}", settings.key_files.get(host))
