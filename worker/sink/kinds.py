"""The kinds of indexes, by name. Their drivers are extras, and loaded, as all else is, when one is asked for: the names
are in the help of the command, which is quick."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from worker.errors import ConfigError
from worker.settings import SinkSettings

if TYPE_CHECKING:
    from worker.sink.port import Store

KINDS = ("pgvector", "milvus", "qdrant", "elasticsearch", "opensearch", "files")
SEARCHABLE = ("pgvector", "milvus", "qdrant")
"""Those that `recommend` can ask."""
_DRIVERS = {
    "pgvector": ("psycopg", "pip install 'align-worker[pgvector]'"),
    "milvus": ("pymilvus", "pip install 'align-worker[milvus]'"),
    "qdrant": ("qdrant_client", "pip install 'align-worker[qdrant]'"),
    "files": ("pyarrow", "pip install 'align-worker[parquet]'"),
}
"""The module that a kind needs, and what brings it."""


def make_store(kind: str, settings: SinkSettings) -> Store:
    """The store, not connected yet. Raises `ConfigError` on one line for a driver that is not installed."""
    if kind in _DRIVERS:
        module, cure = _DRIVERS[kind]
        try:
            import_module(module)
        except ImportError as error:
            raise ConfigError(f"sink {kind}: {module} is not installed ({error}): {cure}") from None
    if kind == "pgvector":
        from worker.sink.pgvector import PgVector

        return PgVector(settings)
    if kind == "milvus":
        from worker.sink.milvus import Milvus

        return Milvus(settings)
    if kind == "qdrant":
        from worker.sink.qdrant import Qdrant

        return Qdrant(settings)
    if kind == "files":
        from worker.sink.files import Files

        return Files(settings)
    from worker.sink.elasticsearch import Elasticsearch

    return Elasticsearch(settings, kind)
