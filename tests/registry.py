"""A schema registry for tests, which speaks the part of Confluent's API that clients use: registering a schema, and
asking for it by id, or by subject and version."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, BinaryIO
from urllib.parse import parse_qs, urlparse

from tests.brokers.certificates import Identity

_CONTENT_TYPE = "application/vnd.schemaregistry.v1+json"


class SchemaRegistry:
    """Serves within a `with` block."""

    def __init__(self, credentials: str | None = None, identity: Identity | None = None) -> None:
        """`credentials`: `user:password`, without which it answers 401. `identity`: it speaks TLS."""
        self.credentials = credentials
        self.requests: list[str] = []
        self.status: int | None = None
        """Answered to everything, where it is set."""
        self.nonsense: Callable[[BinaryIO], object] | None = None
        """Written in place of every answer, where it is set; the connection ends behind it."""
        self._by_id: dict[int, dict[str, Any]] = {}
        self._serialized: dict[int, str] = {}
        self._subjects: dict[str, list[int]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._scheme = "http" if identity is None else "https"
        if identity is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(identity.certificate, identity.key)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.01], daemon=True)

    def __enter__(self) -> SchemaRegistry:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_port}"

    def register(
        self,
        subject: str,
        schema: str,
        kind: str = "AVRO",
        references: list[dict[str, Any]] | None = None,
        serialized: bytes | None = None,
    ) -> int:
        """The id of a schema. `serialized`: what it is compiled to, of Protobuf."""
        found = {"schema": schema, "schemaType": kind, "references": references or []}
        schema_id = next((known for known, other in self._by_id.items() if other == found), None)
        if schema_id is None:
            schema_id = len(self._by_id) + 1
            self._by_id[schema_id] = found
            if serialized is not None:
                self._serialized[schema_id] = base64.b64encode(serialized).decode()
        versions = self._subjects.setdefault(subject, [])
        if schema_id not in versions:
            versions.append(schema_id)
        return schema_id

    def answer(self, method: str, url: str, body: bytes, authorization: str) -> tuple[int, Any]:
        parsed = urlparse(url)
        self.requests.append(f"{method} {url}")
        if self.status is not None:
            return self.status, {"error_code": self.status, "message": "as told"}
        if self.credentials is not None:
            wanted = f"Basic {base64.b64encode(self.credentials.encode()).decode()}"
            if authorization != wanted:
                return 401, {"error_code": 401, "message": "Unauthorized"}
        form = parse_qs(parsed.query).get("format", [""])[0]
        if (found := re.fullmatch(r"/schemas/ids/(\d+)", parsed.path)) and method == "GET":
            if int(found[1]) not in self._by_id:
                return 404, {"error_code": 40403, "message": "Schema not found"}
            return 200, self._told(int(found[1]), form)
        if (found := re.fullmatch(r"/subjects/([^/]+)/versions(?:/(\d+|latest))?", parsed.path)) is not None:
            subject, version = found[1], found[2]
            if method == "POST" and version is None:
                given = json.loads(body)
                kind = given.get("schemaType", "AVRO")
                return 200, {"id": self.register(subject, given["schema"], kind, given.get("references"))}
            versions = self._subjects.get(subject)
            if versions is None:
                return 404, {"error_code": 40401, "message": f"Subject '{subject}' not found."}
            if version is None:
                return 200, list(range(1, len(versions) + 1))
            number = len(versions) if version == "latest" else int(version)
            if not 1 <= number <= len(versions):
                return 404, {"error_code": 40402, "message": f"Version {version} not found."}
            schema_id = versions[number - 1]
            return 200, {**self._told(schema_id, form), "subject": subject, "version": number, "id": schema_id}
        if parsed.path == "/subjects" and method == "GET":
            return 200, list(self._subjects)
        return 404, {"error_code": 404, "message": "HTTP 404 Not Found"}

    def _told(self, schema_id: int, form: str) -> dict[str, Any]:
        """As the registry writes it: of Avro without a type, and references only where there are some."""
        found = self._by_id[schema_id]
        told = {"schema": found["schema"]}
        if form == "serialized" and schema_id in self._serialized:
            told["schema"] = self._serialized[schema_id]
        if found["schemaType"] != "AVRO":
            told["schemaType"] = found["schemaType"]
        if found["references"]:
            told["references"] = found["references"]
        return told


def _handler(registry: SchemaRegistry) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer("GET")

        def do_POST(self) -> None:
            self._answer("POST")

        def _answer(self, method: str) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if registry.nonsense is not None:
                registry.requests.append(f"{method} {self.path}")
                self.close_connection = True
                with contextlib.suppress(OSError):  # whoever asked has gone
                    registry.nonsense(self.wfile)
                return
            status, value = registry.answer(method, self.path, body, self.headers.get("Authorization") or "")
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", _CONTENT_TYPE)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: Any) -> None:
            return

    return Handler
