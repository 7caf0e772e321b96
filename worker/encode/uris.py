"""URIs of contents: what each names, read strictly, and which of them the lists of the configuration admit.

A list is only as good as the reading of what is held against it. So a host is compared as a parsed scheme, host and
port, never as text; what was compared is what is connected to; and a URI that two programs may read in two ways is
refused.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
from typing import NamedTuple, Self
from urllib.parse import quote, unquote, unquote_to_bytes

PORTS = {"http": 80, "https": 443}
MAX_SHOWN_CHARS = 200
MAX_ENCODINGS = 8
"""How often an object's key may be percent-encoded over itself before it is taken for a trick."""

_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]*):")
_AUTHORITY = re.compile(r"//([^/?#\\]*)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_.-]{0,252}[a-z0-9_-])?")
_PORT = re.compile(r"[0-9]{1,5}")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_PATH_SAFE = "/%:@!$&'()*+,;=~-._"
_QUERY_SAFE = _PATH_SAFE + "?[]|{}^\\"


class UriError(ValueError):
    """A URI, or an entry of a list, that cannot be read in one way only."""


class WebUri(NamedTuple):
    """A URI that is fetched over HTTP, in parts."""

    scheme: str
    host: str
    """In lower case, without a dot at its end; an IPv6 address without its brackets."""
    port: int
    target: str
    """Path and query, percent-encoded."""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.target}"


class ObjectUri(NamedTuple):
    """An object of a bucket. Its key is any text: nothing in it separates, and nothing in it is encoded."""

    bucket: str
    key: str

    def target(self, base: str) -> str:
        """The path of the object below that of an endpoint, each character of it encoded once."""
        return f"{base}/{self.bucket}/{quote(self.key, safe='/')}"


class HostRule(NamedTuple):
    """An entry of `encode.fetch.hosts`."""

    host: str
    port: int | None
    """None: the scheme's own."""
    is_domain: bool
    """Stands for all the names below it, and not for itself."""
    bucket: str
    """The entry, if it is taken for a bucket."""

    @classmethod
    def parse(cls, entry: str) -> Self:
        """Raises `UriError` for what is neither `host`, `host:port`, `*.domain` nor a bucket."""
        is_domain = entry.startswith("*.")
        text = entry[2:] if is_domain else entry
        if text.count(":") > 1 and not text.startswith("["):
            text = f"[{text}]"  # a bare IPv6 address
        host, port = _host_and_port(text)
        return cls(host, port, is_domain, entry)

    def admits(self, uri: WebUri) -> bool:
        if uri.port != (PORTS[uri.scheme] if self.port is None else self.port):
            return False
        if not self.is_domain:
            return uri.host == self.host
        return uri.host.endswith(f".{self.host}") and not _is_address(uri.host)

    def admits_bucket(self, bucket: str) -> bool:
        """By its exact name: buckets whose names differ in case are two buckets."""
        return bucket.endswith(self.bucket[1:]) if self.is_domain else bucket == self.bucket


def scheme_of(uri: str) -> str:
    """In lower case; empty if there is none."""
    found = _SCHEME.match(uri)
    return found[1].lower() if found else ""


def parse_web(uri: str) -> WebUri:
    """A URI of `http:` or `https:`. Raises `UriError`.

    Space around it is none of it, and a fragment is never sent. What is percent-encoded stays so; what should be and
    is not, as spaces and umlauts, becomes so.
    """
    text = uri.strip()
    if _CONTROL.search(text):
        raise UriError("a control character in it")
    scheme = scheme_of(text)
    text = text[len(scheme) + 1 :].partition("#")[0]
    authority = _AUTHORITY.match(text)
    if authority is None:
        raise UriError("it names no host")
    rest = text[authority.end() :]
    if rest.startswith("\\"):
        raise UriError("a backslash behind the host")
    if "@" in authority[1]:
        raise UriError("credentials in a URI")
    host, port = _host_and_port(authority[1])
    path, mark, query = rest.partition("?")
    try:
        target = _encoded(path or "/", _PATH_SAFE) + mark + _encoded(query, _QUERY_SAFE)
    except UnicodeEncodeError as error:
        raise UriError("it is no text") from error
    return WebUri(scheme, host, PORTS[scheme] if port is None else port, target)


def parse_object(uri: str) -> ObjectUri:
    """A URI of `s3:`. Raises `UriError`, also for a key that leads out of its bucket where a server resolves dots."""
    text = uri[uri.index(":") + 1 :]
    bucket, _, key = text.removeprefix("//").partition("/")
    if not text.startswith("//") or not _BUCKET.fullmatch(bucket) or ".." in bucket:
        raise UriError(f"{bucket[:MAX_SHOWN_CHARS]!r} is no name of a bucket")
    if not key.strip("/"):
        raise UriError("it names no object")
    _require_no_dots(key)
    try:
        key.encode()
    except UnicodeEncodeError as error:
        raise UriError("the key is no text") from error
    return ObjectUri(bucket, key)


def parse_file(uri: str) -> str:
    """The path of a `file:` URI. Raises `UriError`. A file has no query and no fragment: `?` and `#` are in names."""
    text = uri[uri.index(":") + 1 :]
    if text.startswith("//"):
        host, slash, text = text[2:].partition("/")
        text = slash + text
        if host.lower() not in ("", "localhost"):
            raise UriError(f"a file on host {host[:MAX_SHOWN_CHARS]!r}")
    if not text.startswith("/"):
        raise UriError("the path is not absolute")
    try:
        return os.fsdecode(unquote_to_bytes(text))
    except UnicodeEncodeError as error:
        raise UriError("the path is no text") from error


def parse_endpoint(url: str) -> WebUri:
    """The base URL of an object store; its target is the path that buckets lie below. Raises `UriError`."""
    if scheme_of(url) not in PORTS:
        raise UriError("expected http://… or https://…")
    endpoint = parse_web(url)
    if "?" in endpoint.target or "#" in url:
        raise UriError("a query or a fragment has no place in it")
    return endpoint._replace(target=endpoint.target.rstrip("/"))


def shown(uri: str) -> str:
    """A URI for people and logs: without what may be secret in it, as credentials and the signature of a query."""
    scheme = scheme_of(uri)
    if not scheme:
        return "…"
    rest = uri[uri.index(":") + 1 :]
    if not rest.startswith("//") and scheme != "file":
        return f"{scheme}:…"
    kept = re.split(r"[?#]", rest, maxsplit=1)[0]
    hidden = "?…" if len(kept) < len(rest) else ""
    authority = re.match(r"(//)?([^/\\]*)", kept)
    assert authority is not None  # it matches anything
    host = authority[2].rpartition("@")[2]
    if "@" not in authority[2] and not re.fullmatch(r"[^:@]*(:[0-9]*)?|\[[^]]*\](:[0-9]*)?", host):
        return f"{scheme}://…"  # a colon that no port follows may be that of a password
    path = kept[authority.end() :]
    if "@" in path and ":" in host:
        return f"{scheme}://…"  # a slash in a password makes a host and port of what stands before it
    text = f"{scheme}:{authority[1] or ''}{host}{path}"
    text = _CONTROL.sub("�", text)
    return (text if len(text) <= MAX_SHOWN_CHARS else text[:MAX_SHOWN_CHARS] + "…") + hidden


def _host_and_port(authority: str) -> tuple[str, int | None]:
    bracketed, bracket, rest = authority[1:].partition("]") if authority.startswith("[") else ("", "", "")
    if authority.startswith("["):
        host = _address(bracketed) if bracket else ""
        colon, port = rest[:1], rest[1:]
        if not host or colon not in ("", ":"):
            raise UriError("no IPv6 address in brackets")
    else:
        name, colon, port = authority.partition(":")
        host = _name(name)
    if not port:
        return host, None
    if not _PORT.fullmatch(port) or not 0 < int(port) < 65_536:
        raise UriError("the port is no number")
    return host, int(port)


def _address(text: str) -> str:
    with contextlib.suppress(ValueError):
        if "%" not in text:  # a zone is of this machine, and no business of a stranger
            return str(ipaddress.IPv6Address(text))
    return ""


def _name(text: str) -> str:
    """A host's name as it is compared, resolved and sent: percent-encoded and international spellings are one with
    the plain ones."""
    try:
        decoded = unquote(text, errors="strict")
        name = decoded.encode("idna").decode("ascii") if not decoded.isascii() else decoded
    except UnicodeError as error:
        raise UriError("the host is no name") from error
    name = name.lower().removesuffix(".")
    if not name:
        raise UriError("it names no host")
    if not _NAME.fullmatch(name) or ".." in name:
        raise UriError(f"{name[:MAX_SHOWN_CHARS]!r} is no name of a host")
    return name


def _is_address(host: str) -> bool:
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host)
        return True
    return False


def _require_no_dots(key: str) -> None:
    """However often a server between us and the object decodes the key."""
    for _ in range(MAX_ENCODINGS):
        if any(segment.partition(";")[0].strip() in (".", "..") for segment in re.split(r"[/\\]", key)):
            raise UriError("the key has a segment of dots, which servers resolve")
        decoded = unquote(key)
        if decoded == key:
            return
        key = decoded
    raise UriError("the key is percent-encoded over and over")


def _encoded(text: str, safe: str) -> str:
    return quote(_STRAY_PERCENT.sub("%25", text), safe=safe)
