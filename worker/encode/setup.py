"""From settings to encoders: which content goes where, and whether the space takes what comes out."""

from __future__ import annotations

import importlib.util
import ipaddress
from collections.abc import Iterable, Mapping

from worker.align.cores import available_cores
from worker.align.spec import SpaceSpec
from worker.encode.choice import ModelChoice
from worker.encode.content import ContentEncoder, Route
from worker.encode.decoder_pool import DecoderPool
from worker.encode.encoder import Encoder, RemoteEncoder
from worker.encode.fetch import Fetcher, FetchRules
from worker.encode.media.forms import MediaLimits, TextForm
from worker.encode.registry import load_encoder
from worker.encode.shortened import shortened
from worker.encode.uris import HostRule, UriError, parse_endpoint
from worker.errors import ConfigError
from worker.settings import EncodeSettings, FetchSettings

MEDIA_LIBRARIES = ("av", "PIL")


def content_encoder(
    settings: EncodeSettings,
    *,
    space: SpaceSpec | None = None,
    max_vectors: Mapping[str, int] | None = None,
    device: str = "auto",
    dtype: str = "auto",
    for_queries: bool = False,
) -> ContentEncoder:
    """Load the encoders and what they need. `for_queries`: texts are those of questions, not of items.

    How many vectors a modality may have is said by the space, or without one by `max_vectors`. Raises `ConfigError`
    for an encoder that cannot be had, or whose vectors the space does not take.
    """
    limits = {name: modality.max_vectors for name, modality in space.modalities.items()} if space else max_vectors or {}
    routes = list(_routes(settings, limits, device, dtype, for_queries))
    _require_media_libraries(routes)
    if space is not None:
        for route in routes:
            _require_accepted(route, space)
    pool = DecoderPool(
        settings.decoders or max(1, available_cores() - 1),
        timeout_s=settings.decode_timeout_s,
        memory_bytes=settings.decode_memory_mb * 2**20,
        limits=MediaLimits(settings.max_bytes, settings.max_pixels, settings.max_seconds),
    )
    fetcher = Fetcher(fetch_rules(settings.fetch, settings.max_bytes)) if settings.fetch.schemes else None
    return ContentEncoder(routes, pool, fetcher, cache_bytes=settings.cache_bytes)


def fetch_rules(settings: FetchSettings, max_bytes: int) -> FetchRules:
    """The settings as the fetcher takes them. Raises `ConfigError` for a network, host or endpoint that is none."""
    try:
        networks = tuple(ipaddress.ip_network(network) for network in settings.networks)
    except ValueError as error:
        raise ConfigError(f"encode.fetch.networks: {error}") from error
    for entry in settings.hosts:
        try:
            HostRule.parse(entry)
        except UriError as error:
            detail = "expected host, host:port, *.domain or the name of a bucket"
            raise ConfigError(f"encode.fetch.hosts: {entry!r}: {error}; {detail}") from error
    try:
        parse_endpoint(settings.s3_endpoint or "https://unset/")
    except UriError as error:
        raise ConfigError(f"encode.fetch.s3_endpoint: {error}") from error
    return FetchRules(
        schemes=settings.schemes,
        hosts=settings.hosts,
        roots=settings.roots,
        networks=networks,
        s3_endpoint=settings.s3_endpoint,
        max_bytes=max_bytes,
        timeout_s=settings.timeout_s,
        retries=settings.retries,
        concurrency=settings.concurrency,
    )


def _routes(
    settings: EncodeSettings, limits: Mapping[str, int], device: str, dtype: str, for_queries: bool
) -> Iterable[Route]:
    loaded: dict[ModelChoice, Encoder] = {}
    _require_named(settings)
    for modality, value in settings.encoders.items():
        model, content = _parted(value, modality)
        choice = ModelChoice(
            model,
            settings.document_prompts.get(modality),
            settings.query_prompts.get(modality),
            for_queries,
        )
        if choice not in loaded:
            loaded[choice] = load_encoder(choice, device=device, dtype=dtype, remote=settings.remote)
        encoder = loaded[choice]
        if modality in settings.dims:
            encoder = shortened(encoder, settings.dims[modality], modality)
        samples = settings.windows if encoder.unit == "samples" else settings.frames
        yield Route(modality, content, encoder, limits.get(modality, 1), samples, needs_all=not for_queries)


def _parted(value: str, modality: str) -> tuple[str, str]:
    """Model and content of `MODEL` or `MODEL@CONTENT`. An @ before the host of an address parts nothing."""
    start = value.find("://") + 3 if "://" in value else 0
    first = value.find("/", start) if start else 0
    model, mark, content = value.rpartition("@")
    if not mark or (start and len(model) < max(start, first)):
        model, content = value, modality
    if not (model and all(content.split("+"))):
        raise ConfigError(f"encode.encoders: {modality}={value}: expected MODEL or MODEL@CONTENT")
    return model, content


def _require_named(settings: EncodeSettings) -> None:
    """Refuse a setting for a modality that no encoder makes."""
    for name in ("dims", "document_prompts", "query_prompts"):
        for modality in getattr(settings, name):
            if modality not in settings.encoders:
                known = ", ".join(settings.encoders) or "none"
                raise ConfigError(f"encode.{name}: {modality}: encode.encoders has no such modality; it has {known}")


def _require_accepted(route: Route, space: SpaceSpec) -> None:
    modality = space.modalities.get(route.modality)
    if modality is None:
        known = ", ".join(space.modalities)
        raise ConfigError(f"encode.encoders: the space has no modality {route.modality!r}; it has {known}")
    if isinstance(route.encoder, RemoteEncoder) and modality.encoder is not None and modality.dim == route.encoder.dim:
        route.encoder.adopt(modality.encoder)
    if modality.encoder not in (None, route.encoder.name) or modality.dim != route.encoder.dim:
        raise ConfigError(
            f"encode.encoders: {route.modality}: the space expects {modality.dim} dims of "
            f"{modality.encoder or 'any encoder'}, this encoder is {route.encoder.name} with {route.encoder.dim}"
        )


def _require_media_libraries(routes: Iterable[Route]) -> None:
    missing = [name for name in MEDIA_LIBRARIES if importlib.util.find_spec(name) is None]
    for route in routes:
        if missing and any(not isinstance(form, TextForm) for form in route.encoder.forms(1)):
            raise ConfigError(
                f"encode.encoders: {route.modality}: reading files needs {' and '.join(missing)}: "
                "pip install 'align-worker[media]'"
            )
