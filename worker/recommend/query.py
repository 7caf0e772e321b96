"""A query that is no item of the catalogue: words, or a file, through the space and its encoders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from schemas import Content, Feature, judge
from worker.align import AlignRuntime, Contract, Refusal, Space
from worker.data.files import read_items
from worker.encode.command import media_content
from worker.encode.encoder import UnavailableError
from worker.encode.media.errors import ContentError
from worker.encode.setup import content_encoder
from worker.errors import ConfigError, DataError, UnreachableError
from worker.settings import Settings


class Encoder:
    """Makes vectors of queries, by the code that makes those of items. Raises `ConfigError`, `DataError`."""

    def __init__(self, space: Space, settings: Settings) -> None:
        self._settings = settings
        self._space = space
        # In float32 whatever the worker computes in: one vector is not worth a choice.
        self._runtime = AlignRuntime(
            space, device=settings.device, dtype="float32", threads=settings.threads, max_batch=1, modality_vectors=True
        )

    def words(self, text: str, by: str | None, among: str | None = None) -> NDArray[np.float32]:
        """`[D]`: the vector of an item that has this text, or of what `by` leaves of it.

        To be looked for `among` vectors of one modality, it is the vector of its own modality alone: training pulls
        those together, and not the vector of a whole item to them.
        """
        try:
            content = Content(text=text)
        except ValidationError as error:
            raise ConfigError(f"--text: {error.errors()[0]['msg']}") from None
        return self._vector({}, {"text": content}, by, among, "--text", is_question=True)

    def file(self, path: Path, by: str | None, among: str | None = None) -> NDArray[np.float32]:
        """`[D]`: the same of an item of which this is all: a media file, or the one item in an item file."""
        name = f"--file {path}"
        if named := media_content(path, self._settings.encode.max_bytes):
            modality, content = named
            return self._vector({}, {modality: content}, by, among, name)
        items = list(read_items(path))
        if len(items) != 1:
            raise DataError(f"{name}: holds {len(items)} items; a query is one")
        return self._vector(items[0].features, items[0].content, by, among, name)

    def _vector(
        self,
        features: Mapping[str, Feature],
        contents: Mapping[str, Content],
        by: str | None,
        among: str | None,
        name: str,
        *,
        is_question: bool = False,
    ) -> NDArray[np.float32]:
        made = {**features, **self._encoded(contents, features, name, is_question)}
        if by is not None:
            made = {modality: feature for modality, feature in made.items() if modality == by}
            if not made:
                raise ConfigError(f"--by {by}: {name} has no {by}")
        accepted = Contract(self._space.spec).check(made)
        if isinstance(accepted, Refusal):
            raise DataError(f"{name}: the space does not take it: {accepted.detail}")
        if (judged := judge([accepted]).get(0)) is not None:
            if judged.too_large is not None or not judged.features:
                raise DataError(f"{name}: {judged.problem()}")
            accepted = judged.features
        embedded = self._runtime.embed([accepted])
        if embedded.bad_rows:
            raise DataError(f"{name}: {embedded.bad_rows[0]}")
        if among is not None and len(accepted) == 1 and embedded.modality_vectors is not None:
            (modality,) = accepted
            return np.asarray(embedded.modality_vectors[modality][0], np.float32)
        return np.asarray(embedded.vectors[0], np.float32)

    def _encoded(
        self, contents: Mapping[str, Content], present: Mapping[str, Feature], name: str, is_question: bool
    ) -> Mapping[str, Feature]:
        if not contents.keys() - present.keys():
            return {}
        if not self._settings.encode.encoders:
            raise ConfigError(f"{name}: encode.encoders is not set; name those of the worker, as text=builtin-text")
        encoder = content_encoder(
            self._settings.encode,
            space=self._space.spec,
            device=self._settings.device,
            dtype=self._settings.dtype,
            for_queries=is_question,
        )
        try:
            modalities = encoder.modalities(contents, present)
            if not modalities:
                known = ", ".join(sorted({route.content for route in encoder.routes.values()}))
                raise ConfigError(f"{name}: encode.encoders has none for {', '.join(contents)}; it has for {known}")
            (result,), _ = encoder.encode([contents], [modalities])
        except UnavailableError as error:
            raise UnreachableError(f"{name}: {error.detail}") from None
        finally:
            encoder.close()
        if isinstance(result, ContentError):
            raise DataError(f"{name}: {result.reason.value}: {result.detail}")
        return result.features
