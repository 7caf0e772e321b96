"""A server that answers as Elasticsearch's documents say, for the calls that a sink makes: indexes with mappings, and
`_bulk` with external versions. It is no search engine; no real one could be run here."""

from __future__ import annotations

import json
import re
import threading
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class ElasticServer:
    def __init__(self) -> None:
        self.mappings: dict[str, Any] = {}
        self.documents: dict[str, dict[str, tuple[int, dict[str, Any]]]] = {}
        """By index and id: version and source."""
        self.status: int | None = None
        """What every call is answered with, where it is set."""
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _handle(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                with server._lock:
                    status, answer = server._answer(
                        self.command, self.path, body, self.headers.get("Content-Type") or ""
                    )
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_PUT = do_POST = _handle

            def log_message(self, *_: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, method: str, path: str, body: bytes, content_type: str) -> tuple[int, Any]:
        if self.status is not None:
            return self.status, {"error": {"type": "unavailable", "reason": "as it was told to"}}
        if path == "/":
            return 200, {"version": {"number": "9.0.0"}}
        name, _, call = path.removeprefix("/").partition("/")
        if method == "PUT" and not call:
            if name in self.mappings:
                return 400, {"error": {"type": "resource_already_exists_exception", "reason": f"index [{name}] exists"}}
            if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,254}", name):
                return 400, {"error": {"type": "invalid_index_name_exception", "reason": f"Invalid name [{name}]"}}
            self.mappings[name], self.documents[name] = json.loads(body)["mappings"], {}
            return 200, {"acknowledged": True}
        if method == "GET" and call == "_mapping":
            found = {index: {"mappings": each} for index, each in self.mappings.items() if fnmatch(index, name)}
            return (200, found) if found or "*" in name else (404, {"error": {"type": "index_not_found_exception"}})
        if method == "POST" and call == "_bulk":
            assert content_type == "application/x-ndjson"
            assert body.endswith(b"\n")
            lines = [json.loads(line) for line in body.splitlines()]
            items = [{"index": self._index(name, *pair)} for pair in zip(lines[::2], lines[1::2], strict=True)]
            return 200, {"errors": any(each["index"]["status"] >= 300 for each in items), "items": items}
        return 405, {"error": "no such call"}

    def _index(self, name: str, action: dict[str, Any], source: dict[str, Any]) -> dict[str, Any]:
        given = action["index"]
        assert given.keys() == {"_id", "version", "version_type"}
        assert given["version_type"] == "external_gte"
        documents, row_id = self.documents[name], given["_id"]
        dims = self.mappings[name]["properties"]["vector"].get("dims")
        if "vector" in source and dims is not None and len(source["vector"]) != dims:
            reason = f"The [dense_vector] field has a different number of dimensions [{len(source['vector'])}]"
            return {"_id": row_id, "status": 400, "error": {"type": "document_parsing_exception", "reason": reason}}
        if not row_id or len(row_id.encode()) > 512:
            reason = f"id is too long, must be no longer than 512 bytes but was: {len(row_id.encode())}"
            return {"_id": row_id, "status": 400, "error": {"type": "illegal_argument_exception", "reason": reason}}
        if row_id in documents and given["version"] < documents[row_id][0]:
            return {"_id": row_id, "status": 409, "error": {"type": "version_conflict_engine_exception"}}
        status = 200 if row_id in documents else 201
        documents[row_id] = given["version"], source
        return {"_id": row_id, "status": status, "_version": given["version"]}
