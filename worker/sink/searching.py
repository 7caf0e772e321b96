"""An index that a sink has filled, asked: which collection it is, and the kinds that can search."""

from __future__ import annotations

from collections.abc import Collection as Ids
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from worker.errors import ConfigError, DataError
from worker.recommend.conditions import Condition
from worker.recommend.index import Neighbor
from worker.recommend.published import PublishedUser
from worker.settings import SinkSettings
from worker.sink.kinds import make_store
from worker.sink.port import RowsRefusedError, Store
from worker.sink.row import Collection, Entity


class SearchStore(Store, Protocol):
    """A kind of index that can be searched."""

    def find(self, collection: Collection, row_id: str) -> PublishedUser | None:
        """The vector of a row that is not deleted; of an item it has no events."""
        ...

    def nearest(
        self,
        collection: Collection,
        vector: NDArray[np.float32],
        count: int,
        where: Sequence[Condition],
        without: Ids[str],
    ) -> Sequence[Neighbor]:
        """As `Index.nearest`."""
        ...


class StoreIndex:
    """Implements `worker.recommend.index.Index`."""

    def __init__(self, store: SearchStore, items: Collection, users: Collection | None) -> None:
        self._store = store
        self._items = items
        self._users = users
        self.space_id = items.space_id

    @property
    def dim(self) -> int:
        return self._items.dim

    @property
    def has_users(self) -> bool:
        return self._users is not None

    def item(self, item_id: str) -> NDArray[np.float32] | None:
        found = self._store.find(self._items, item_id)
        return None if found is None else found.vector

    def user(self, user_id: str) -> PublishedUser | None:
        return None if self._users is None else self._store.find(self._users, user_id)

    def nearest(
        self, vector: NDArray[np.float32], count: int, where: Sequence[Condition], without: Ids[str]
    ) -> Sequence[Neighbor]:
        if len(vector) != self._items.dim:
            raise DataError(f"the question has {len(vector)} dimensions, the vectors of the index {self._items.dim}")
        try:
            return self._store.nearest(self._items, vector, count, where, without)
        except RowsRefusedError as error:
            raise ConfigError(f"--where: the index does not take the question: {error}") from None

    def close(self) -> None:
        self._store.close()


def open_index(kind: str, settings: SinkSettings, space_id: str | None) -> StoreIndex:
    """The index, connected; without a space, that which it has vectors of. Raises `ConfigError`, `StoreError`."""
    store: SearchStore = make_store(kind, settings)  # type: ignore[assignment]  # the kinds that the flag takes can
    store.connect()
    try:
        items = _chosen(store, "items", kind, space_id)
        if items is None:
            of_space = f" of space {space_id}" if space_id else ""
            raise ConfigError(
                f"--index {kind}: it has no item vectors{of_space}: `align-worker sink {kind}` writes them"
            )
        return StoreIndex(store, items, _chosen(store, "users", kind, items.space_id))
    except BaseException:
        store.close()
        raise


def _chosen(store: Store, entity: Entity, kind: str, space_id: str | None) -> Collection | None:
    found = [each for each in store.collections(entity) if space_id is None or each.space_id == space_id]
    if len(found) > 1:
        spaces = ", ".join(sorted(each.space_id for each in found))
        raise ConfigError(f"--index {kind}: it has vectors of several spaces ({spaces}): space.path says of which")
    return found[0] if found else None
