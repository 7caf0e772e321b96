"""The index over the vectors of a table in PostgreSQL: made beside the work, once the table is filled.

A row costs HNSW a hundred times what it costs the table, and an index that is made of a full table much less than one
that grows with it. So it is made when the sink has caught up, on a connection and a thread of its own, without keeping
anybody from writing (`CONCURRENTLY`); one sink makes it, whoever comes first. What was broken off is made anew.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import closing
from typing import Any

import psycopg
from psycopg import sql

from worker.errors import StoreError
from worker.settings import SinkSettings

log = logging.getLogger(__name__)

OPERATORS = {"cosine": "vector_cosine_ops", "ip": "vector_ip_ops", "l2": "vector_l2_ops"}
RETRY_S, LOOK_S = 30.0, 2.0
_BUILDING = 0x616C69  # first half of the lock of the sink that makes an index
_FIND = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)"


def connected(settings: SinkSettings) -> psycopg.Connection[Any]:
    """Raises what the driver raises."""
    options: dict[str, Any] = {"connect_timeout": max(2, round(min(settings.timeout_s, 10)))}
    if settings.password is not None:
        options["password"] = settings.password.get_secret_value()
    return psycopg.connect(settings.url or "", application_name="align-worker sink", **options)


class IndexBuild:
    """Of one table. `is_done` is called on the writer's thread."""

    def __init__(self, settings: SinkSettings, table: str) -> None:
        self._settings = settings
        self._table = table
        self._name = f"{table}_{settings.distance}"
        self._thread: threading.Thread | None = None
        self._error: psycopg.Error | None = None
        self._retry_at = 0.0
        self._is_done = False

    def is_done(self, connection: psycopg.Connection[Any]) -> bool:
        """Whether the index is there; if nobody makes it, begin. Raises `StoreError` once for each attempt that has
        failed; the next one is due `RETRY_S` later."""
        if self._is_done:
            return True
        if self._thread is not None:
            if self._thread.is_alive():
                return False
            self._thread, error, self._error = None, self._error, None
            self._retry_at = time.monotonic() + (LOOK_S if error is None else RETRY_S)
            if error is not None:
                told = " ".join(str(error).split())[:500]
                raise StoreError(f"PostgreSQL: index {self._name} cannot be made: {told}") from error
        try:
            self._is_done = self._is_there(connection)
            connection.commit()
        except psycopg.Error as error:
            raise StoreError(f"PostgreSQL: {' '.join(str(error).split())[:500]}") from error
        if not self._is_done and time.monotonic() >= self._retry_at:
            self._thread = threading.Thread(target=self._build, name="index", daemon=True)
            self._thread.start()
        return self._is_done

    def _is_there(self, connection: psycopg.Connection[Any]) -> bool:
        return connection.execute(_FIND, [sql.Identifier(self._name).as_string(connection)]).fetchone() == (True,)

    def _build(self) -> None:
        try:
            with closing(connected(self._settings)) as connection:
                connection.autocommit = True
                self._build_on(connection)
        except psycopg.Error as error:
            self._error = error

    def _build_on(self, connection: psycopg.Connection[Any]) -> None:
        asked = "SELECT pg_try_advisory_lock(%s, hashtext(%s))"
        if connection.execute(asked, [_BUILDING, self._name]).fetchone() != (True,) or self._is_there(connection):
            return  # another sink makes it, or has made it: the next look says which
        names = {"name": sql.Identifier(self._name), "table": sql.Identifier(self._table)}
        connection.execute("SET statement_timeout = 0")
        if self._settings.index_memory_mb is not None:
            connection.execute(
                "SELECT set_config('maintenance_work_mem', %s, false)", [f"{self._settings.index_memory_mb}MB"]
            )
        started = time.monotonic()
        log.info("making index %s", self._name, extra={"action": "index"})
        connection.execute(sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {name}").format(**names))
        connection.execute(
            sql.SQL("CREATE INDEX CONCURRENTLY {name} ON {table} USING hnsw (vector {operators})").format(
                **names, operators=sql.SQL(OPERATORS[self._settings.distance])
            )
        )
        took_s = time.monotonic() - started
        log.info("index %s is made, in %.1f s", self._name, took_s, extra={"action": "index_made"})
