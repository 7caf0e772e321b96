"""PostgreSQL with pgvector: a table per space, and the newer row decided by the table itself.

Rows go by a binary COPY into a temporary table and from there with `INSERT … ON CONFLICT … WHERE newer`, so two sinks,
or one that begins again, cannot undo anything. A deleted item keeps its row, without vector: an older vector that comes
late finds it there.
"""

from __future__ import annotations

import json
import logging
import struct
import time
from collections.abc import Callable, Sequence
from collections.abc import Collection as Ids
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from worker.errors import ConfigError, StoreError
from worker.recommend.conditions import Condition
from worker.recommend.index import Neighbor
from worker.recommend.published import PublishedUser
from worker.settings import SinkSettings
from worker.sink.pgvector_index import IndexBuild, connected
from worker.sink.port import Outcome, RowsRefusedError
from worker.sink.row import NAMES, Collection, Entity, Row

log = logging.getLogger(__name__)

MAX_HNSW_DIM = 2_000
PURGE_S = 3_600.0
_COPY_HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_COPY_END = b"\xff\xff"
_NULL = b"\xff\xff\xff\xff"
_TEXT_OID = 25
_LOCK = 0x616C69676E  # of all sinks, while one of them makes a table

KEYS: dict[Entity, str] = {"items": "item_id", "users": "user_id"}
DISTANCES = {"cosine": "<=>", "ip": "<#>", "l2": "<->"}
COSINES: dict[str, Callable[[float], float]] = {
    "cosine": lambda distance: 1.0 - distance,
    "ip": lambda distance: -distance,
    "l2": lambda distance: 1.0 - distance * distance / 2,
}
"""Of vectors of unit length, from what the operator says of them."""
MAX_EF = 1_000
COLUMN_TYPES = {
    "number": ("double precision", "number", "(attributes->>{name})::double precision"),
    "text": ("text", "string", "attributes->>{name}"),
    "bool": ("boolean", "boolean", "(attributes->>{name})::boolean"),
    "tags": ("jsonb", "array", "attributes->{name}"),
}

_TABLE = """
CREATE TABLE IF NOT EXISTS {table} (
    {key} text PRIMARY KEY,
    vector vector({dim}),
    attributes jsonb,
    revision bigint NOT NULL,
    event_time_ms bigint NOT NULL,
    produced_at_ms bigint NOT NULL,
    modalities text[],
    prior double precision,
    num_events bigint NOT NULL,
    log text NOT NULL,
    log_partition integer NOT NULL,
    source_offset bigint,
    log_offset bigint NOT NULL,
    deleted boolean NOT NULL
) WITH (fillfactor = 80)
"""
# A row whose vector stays the same is then updated without a new entry in the index (HOT), where there is room for it.
_UPSERT = """
WITH written AS (
    INSERT INTO {table} AS t ({columns}) SELECT {columns} FROM {stage} ORDER BY {key}
    ON CONFLICT ({key}) DO UPDATE SET {assignments}
    WHERE CASE
        WHEN excluded.log_partition = t.log_partition THEN CASE
            WHEN coalesce(excluded.source_offset, t.source_offset, -1) <> coalesce(t.source_offset, -1)
                THEN coalesce(excluded.source_offset, t.source_offset, -1) > coalesce(t.source_offset, -1)
            WHEN excluded.log = t.log THEN excluded.log_offset > t.log_offset
            ELSE excluded.produced_at_ms >= t.produced_at_ms
        END
        WHEN excluded.deleted OR t.deleted THEN excluded.produced_at_ms >= t.produced_at_ms
        ELSE (excluded.revision, excluded.produced_at_ms) >= (t.revision, t.produced_at_ms)
    END
    RETURNING t.deleted
)
SELECT count(*), count(*) FILTER (WHERE deleted) FROM written
"""
_COLUMNS = (
    "vector", "attributes", "revision", "event_time_ms", "produced_at_ms", "modalities", "prior", "num_events", "log",
    "log_partition", "source_offset", "log_offset", "deleted",
)  # fmt: skip


class PgVector:
    """Implements `Store`."""

    def __init__(self, settings: SinkSettings) -> None:
        if settings.url is None:
            raise ConfigError("sink.url is not set: name the database, as postgresql://user@host/database")
        self._settings = settings
        self._connection: psycopg.Connection[Any] | None = None
        self._prepared: set[Collection] = set()
        self._builds: dict[Collection, IndexBuild] = {}
        self._purged_at = -PURGE_S
        self._most = settings.max_records
        """Rows of a transaction: fewer once one has taken too long, and slowly more again."""

    def connect(self) -> None:
        self.close()
        settings = self._settings
        try:
            connection = connected(settings)
        except psycopg.ProgrammingError as error:
            raise ConfigError(f"sink.url: {_one_line(error)}") from None
        except psycopg.Error as error:
            raise StoreError(f"PostgreSQL cannot be reached: {_one_line(error)}") from None
        try:
            connection.execute("SELECT set_config('statement_timeout', %s, false)", [f"{settings.timeout_s:g}s"])
            connection.commit()
            self._require_extension(connection)
        except psycopg.Error as error:
            connection.close()
            raise StoreError(f"PostgreSQL: {_one_line(error)}") from None
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    @staticmethod
    def _require_extension(connection: psycopg.Connection[Any]) -> None:
        if connection.execute("SELECT 1 FROM pg_extension WHERE extname = 'vector'").fetchone() is None:
            try:
                connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            except psycopg.errors.UniqueViolation:  # another sink was first
                connection.rollback()
            except (
                psycopg.errors.InsufficientPrivilege,
                psycopg.errors.FeatureNotSupported,
                psycopg.errors.UndefinedFile,
            ) as error:
                connection.rollback()
                raise ConfigError(
                    f"sink.url: the database has no extension `vector` and none can be made: {_one_line(error)}; have "
                    "its owner install pgvector and run CREATE EXTENSION vector"
                ) from None
        connection.commit()

    def prepare(self, collection: Collection) -> None:
        if collection in self._prepared:
            return
        connection, names = self._open(), self._names(collection)
        with _translated(connection):
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
            connection.execute(sql.SQL(_TABLE).format(**names, dim=sql.Literal(collection.dim)))
            self._require_dim(connection, collection)
            connection.execute(
                sql.SQL("COMMENT ON TABLE {table} IS {mark}").format(
                    **names, mark=sql.Literal(_mark(collection.entity) + collection.space_id)
                )
            )
            for column, kind in self._settings.columns.items() if collection.entity == "items" else ():
                connection.execute(_add_column(names["table"], column, kind))
            if self._settings.index == "hnsw" and collection.dim <= MAX_HNSW_DIM:
                self._builds.setdefault(collection, IndexBuild(self._settings, self.table(collection)))
            elif self._settings.index == "hnsw":
                log.warning(
                    "vectors of %d dimensions get no index: pgvector's HNSW takes up to %d", collection.dim,
                    MAX_HNSW_DIM, extra={"action": "no_index"},
                )  # fmt: skip
            self._make_view(connection, collection)
            stage = sql.SQL(
                "CREATE TEMPORARY TABLE IF NOT EXISTS {stage} ON COMMIT DELETE ROWS AS SELECT {columns} FROM {table} "
                "WITH NO DATA"
            )
            connection.execute(stage.format(**names, columns=_list(_columns_of(collection))))
            connection.commit()
        self._prepared.add(collection)

    def _require_dim(self, connection: psycopg.Connection[Any], collection: Collection) -> None:
        query = "SELECT atttypmod FROM pg_attribute WHERE attrelid = %s::regclass AND attname = 'vector'"
        table = sql.Identifier(self.table(collection)).as_string(connection)
        found = connection.execute(query, [table]).fetchone()
        if found is not None and found[0] != collection.dim:
            raise ConfigError(
                f"table {self.table(collection)} holds vectors of {found[0]} dimensions, the topic vectors of "
                f"{collection.dim}: rename the table, or set sink.prefix"
            )

    def _make_view(self, connection: psycopg.Connection[Any], collection: Collection) -> None:
        """A name that stays: the rows of the first space that was written. Whoever moves to another one replaces it."""
        view = f"{self._settings.prefix}{NAMES[collection.entity]}"
        if connection.execute("SELECT to_regclass(%s)", [view]).fetchone() != (None,):
            return
        connection.execute(
            sql.SQL("CREATE VIEW {view} AS SELECT * FROM {table} WHERE NOT deleted").format(
                view=sql.Identifier(view), table=sql.Identifier(self.table(collection))
            )
        )

    def collections(self, entity: Entity) -> Sequence[Collection]:
        prefix = f"{self._settings.prefix}{NAMES[entity]}_"
        query = (
            "SELECT c.relname, a.atttypmod, obj_description(c.oid, 'pg_class') FROM pg_class c "
            "JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'vector' "
            "WHERE c.relkind = 'r' AND pg_table_is_visible(c.oid) AND starts_with(c.relname, %s) ORDER BY 1"
        )
        connection = self._open()
        with _translated(connection):
            found = connection.execute(query, [prefix]).fetchall()
            connection.commit()
        named = [(name, Collection(entity, (mark or "").removeprefix(_mark(entity)), dim)) for name, dim, mark in found]
        return [collection for name, collection in named if collection.space_id and name == self.table(collection)]

    def write(self, collection: Collection, rows: Sequence[Row]) -> Outcome:
        outcomes = []
        start = 0
        while start < len(rows):
            part = rows[start : start + self._most]
            outcomes.append(self._write_part(collection, part))
            start += len(part)
        self._most = min(self._settings.max_records, 2 * self._most)
        self._purge(collection)
        return Outcome(*map(sum, zip(*outcomes, strict=True))) if outcomes else Outcome(0, 0, 0)

    def _write_part(self, collection: Collection, rows: Sequence[Row]) -> Outcome:
        connection, names, columns = self._open(), self._names(collection), _columns_of(collection)
        packed = b"".join([_COPY_HEADER, *(_packed(row) for row in rows), _COPY_END])
        with _translated(connection, self._take_fewer):
            copy_in = sql.SQL("COPY {stage} ({columns}) FROM STDIN (FORMAT BINARY)")
            cursor = connection.cursor()
            with cursor.copy(copy_in.format(**names, columns=_list(columns))) as copy:
                copy.write(packed)
            assignments = sql.SQL(", ").join(
                sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in columns[1:]
            )
            cursor.execute(sql.SQL(_UPSERT).format(**names, columns=_list(columns), assignments=assignments))
            written, deleted = cursor.fetchone() or (0, 0)
            connection.commit()
        return Outcome(written - deleted, deleted, len(rows) - written)

    # ------------------------------------------------------------------ searching

    def find(self, collection: Collection, row_id: str) -> PublishedUser | None:
        connection = self._open()
        query = "SELECT vector::real[], num_events, event_time_ms FROM {table} WHERE {key} = %s AND NOT deleted"
        with _translated(connection):
            found = connection.execute(sql.SQL(query).format(**self._names(collection)), [row_id]).fetchone()
            connection.commit()
        return None if found is None else PublishedUser(np.array(found[0], np.float32), found[1], found[2])

    def nearest(
        self,
        collection: Collection,
        vector: NDArray[np.float32],
        count: int,
        where: Sequence[Condition],
        without: Ids[str],
    ) -> Sequence[Neighbor]:
        """HNSW knows no conditions: where too few are left of what it finds, all rows are looked at."""
        connection, names = self._open(), self._names(collection)
        conditions: list[sql.Composable] = [sql.SQL("NOT deleted")]
        values: list[Any] = [vector.tolist()]
        if without:
            conditions.append(sql.SQL("{key} <> ALL(%s)").format(**names))
            values.append(list(without))
        for each in where:
            text, given = _condition(each)
            conditions.append(sql.SQL(text))
            values += given
        query = sql.SQL(
            "SELECT {key}, vector {operator} %s::real[]::vector AS distance, coalesce(prior, 0), modalities, "
            "attributes FROM {table} WHERE {conditions} ORDER BY distance LIMIT %s"
        ).format(
            **names, operator=sql.SQL(DISTANCES[self._settings.distance]), conditions=sql.SQL(" AND ").join(conditions)
        )
        values.append(count)
        with _translated(connection):
            connection.execute("SELECT set_config('hnsw.ef_search', %s, true)", [str(min(MAX_EF, max(40, 2 * count)))])
            found = connection.execute(query, values).fetchall()
            if len(found) < count:
                connection.execute("SET LOCAL enable_indexscan = off")
                found = connection.execute(query, values).fetchall()
            connection.commit()
        cosine = COSINES[self._settings.distance]
        return [
            Neighbor(item_id, cosine(distance), prior, tuple(modalities or ()), attributes or {})
            for item_id, distance, prior, modalities, attributes in found
        ]

    def _take_fewer(self) -> None:
        self._most = max(1, self._most // 4)

    def _purge(self, collection: Collection) -> None:
        """Forget deletions that are older than anything that could still come late."""
        if time.monotonic() - self._purged_at < PURGE_S:
            return
        self._purged_at = time.monotonic()
        connection = self._open()
        before_ms = time.time_ns() // 1_000_000 - round(self._settings.keep_deleted_s * 1000)
        with _translated(connection):
            query = sql.SQL("DELETE FROM {table} WHERE deleted AND produced_at_ms < {before}")
            connection.execute(query.format(**self._names(collection), before=sql.Literal(before_ms)))
            connection.commit()

    def table(self, collection: Collection) -> str:
        return self._settings.prefix + collection.name

    def tick(self, *, is_caught_up: bool) -> bool:
        """An index over vectors is made when the table is filled (`IndexBuild`)."""
        done = [build.is_done(self._open()) for build in self._builds.values()] if is_caught_up else []
        return all(done)

    def _names(self, collection: Collection) -> dict[str, Any]:
        table = self.table(collection)
        return {
            "table": sql.Identifier(table),
            "stage": sql.Identifier("pg_temp", f"stage_{table}"),
            "key": sql.Identifier(KEYS[collection.entity]),
        }

    def _open(self) -> psycopg.Connection[Any]:
        if self._connection is None:
            raise StoreError("PostgreSQL is not connected")
        return self._connection

    def close(self) -> None:
        self._prepared.clear()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class _translated:  # noqa: N801  # reads as a word
    """Errors of the driver as ours, with nothing of the transaction left."""

    def __init__(self, connection: psycopg.Connection[Any], on_timeout: Callable[[], None] = lambda: None) -> None:
        self._connection = connection
        self._on_timeout = on_timeout

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if error is None:
            return
        try:
            self._connection.rollback()
        except psycopg.Error:  # the connection has gone
            self._connection.close()
        if isinstance(error, psycopg.errors.QueryCanceled):
            self._on_timeout()
        if isinstance(error, psycopg.DataError | psycopg.errors.ProgramLimitExceeded):
            raise RowsRefusedError(_one_line(error)) from error
        if isinstance(error, psycopg.Error):
            raise StoreError(f"PostgreSQL: {_one_line(error)}") from error


def _condition(condition: Condition) -> tuple[str, list[Any]]:
    """As SQL, with the values that go into it."""
    name, operator, value = condition
    if operator in ("=", "!="):
        held = "coalesce(attributes -> %s @> %s::jsonb, false)"
        text = held if operator == "=" else f"attributes ? %s AND NOT {held}"
        values = [name, json.dumps(value)]
        return text, values if operator == "=" else [name, *values]
    compared = f"(attributes ->> %s)::double precision {operator} %s"
    return f"CASE WHEN jsonb_typeof(attributes -> %s) = 'number' THEN {compared} ELSE false END", [name, name, value]


def _mark(entity: Entity) -> str:
    """Beginning of the comment by which a table of a sink is told from others with such a name; its space follows."""
    return f"align-worker sink: {entity} of space "


def _columns_of(collection: Collection) -> tuple[str, ...]:
    return (KEYS[collection.entity], *_COLUMNS)


def _list(columns: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))


def _add_column(table: sql.Identifier, name: str, kind: str) -> sql.Composed:
    """A column that follows an attribute, null where that has another type. It is indexed like any other."""
    pg_type, json_type, expression = COLUMN_TYPES[kind]
    return sql.SQL(
        "ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {column} {type} GENERATED ALWAYS AS "
        "(CASE WHEN jsonb_typeof(attributes->{name}) = {json_type} THEN {expression} END) STORED"
    ).format(
        table=table,
        column=sql.Identifier(name),
        type=sql.SQL(pg_type),
        name=sql.Literal(name),
        json_type=sql.Literal(json_type),
        expression=sql.SQL(expression).format(name=sql.Literal(name)),
    )


def _packed(row: Row) -> bytes:
    """A tuple of a binary COPY, with the columns of `_columns_of`."""
    place = row.place
    return b"".join(
        (
            struct.pack("!h", 1 + len(_COLUMNS)),
            _field(row.id.encode()),
            _NULL if row.vector is None else _field(_vector(row.vector)),
            _NULL if row.is_deleted else _field(b"\x01" + json.dumps(row.attributes, ensure_ascii=False).encode()),
            struct.pack("!iq", 8, place.revision),
            struct.pack("!iq", 8, row.event_time_ms),
            struct.pack("!iq", 8, place.made_at_ms),
            _NULL if row.is_deleted else _field(_text_array(row.modalities)),
            _NULL if row.prior is None else struct.pack("!id", 8, row.prior),
            struct.pack("!iq", 8, row.num_events),
            _field(place.log.encode()),
            struct.pack("!ii", 4, place.partition),
            _NULL if place.source_offset is None else struct.pack("!iq", 8, place.source_offset),
            struct.pack("!iq", 8, place.offset),
            struct.pack("!i?", 1, row.is_deleted),
        )
    )


def _vector(vector: NDArray[np.float32]) -> bytes:
    return struct.pack("!hh", len(vector), 0) + vector.astype(">f4").tobytes()


def _field(data: bytes) -> bytes:
    return struct.pack("!i", len(data)) + data


def _text_array(texts: Sequence[str]) -> bytes:
    if not texts:
        return struct.pack("!iii", 0, 0, _TEXT_OID)
    return struct.pack("!iiiii", 1, 0, _TEXT_OID, len(texts), 1) + b"".join(_field(each.encode()) for each in texts)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__
