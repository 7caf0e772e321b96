"""State of each item and user: one embedded store per partition, backed by a changelog topic."""

from worker.state.store import MemoryStore, Store
from worker.state.stores import Stores

__all__ = ["MemoryStore", "Store", "Stores"]
