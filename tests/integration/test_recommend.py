"""Recommendations from the topics that a worker has written, on real brokers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas import ItemVector, decode
from tests.integration.stream import Stream, names
from tests.integration.user_stream import UserStream
from tests.integration.worker_thread import WorkerThread
from tests.worker_process import as_text
from worker.__main__ import main

NUM_ITEMS = 40


@pytest.fixture
def users(stream: Stream) -> UserStream:
    made = UserStream(stream)
    made.create_topics()
    return made


def ask(users: UserStream, capsys: pytest.CaptureFixture[str], *flags: str) -> Any:
    """The answers, by the command as one types it."""
    groups = ("kafka.", "topics.")
    settings = [f"--{name}={as_text(value)}" for name, value in users.settings().items() if name.startswith(groups)]
    capsys.readouterr()
    assert main(["recommend", *settings, "--json", *flags]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def expected(vectors: dict[str, np.ndarray], query: np.ndarray, without: set[str], count: int) -> list[str]:
    scores = {item: float(query @ vector) for item, vector in vectors.items() if item not in without}
    return sorted(scores, key=lambda item: -scores[item])[:count]


def test_what_was_published_is_recommended(
    users: UserStream, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A user, an item, an item by one of its modalities, after a delete; from topics, and from files made of them."""
    stream = users.stream
    catalogue = list(names(NUM_ITEMS))
    stream.feed_items(catalogue)
    seen = catalogue[3:6]
    users.feed(users.event("ada", item, number) for number, item in enumerate(seen))
    users.feed([users.event("bob", catalogue[9], 1)])
    with WorkerThread(users.settings(changes={"publish.modality_vectors": True})) as worker:
        stream.wait_committed(worker)
        users.wait_committed(worker)
        worker.until(lambda: len(users.published()) == 2, name="done with users")
        stream.feed([stream.delete(catalogue[0])])
        stream.wait_committed(worker)
    vectors, texts, images = published(stream)
    assert catalogue[0] not in vectors

    questions = ["--user", "ada", "--like", catalogue[1], "--count", "7"]
    document = ask(users, capsys, *questions)
    user, like = document["answers"]
    assert ids(user) == expected(vectors, users.final()["ada"], set(seen), 7)
    assert (user["num_seen"], user["latest"][0]["item_id"]) == (3, seen[-1])
    assert ids(like) == expected(vectors, vectors[catalogue[1]], {catalogue[1]}, 7)
    assert (document["space_id"], document["num_items"]) == (stream.space.space_id, NUM_ITEMS - 1)

    (other,) = ask(users, capsys, "--like", catalogue[1], "--by", "text", "--among", "image")["answers"]
    assert ids(other) == expected(images, texts[catalogue[1]], {catalogue[1]}, 10)

    assert ask(users, capsys, *questions, "--save", str(tmp_path)) == document
    files = {name: str(tmp_path / f"{name}.msgpack") for name in ("item-vectors", "user-vectors", "events")}
    capsys.readouterr()
    assert main(["recommend", "--json", *questions, *(f"--{name}={path}" for name, path in files.items())]) == 0
    assert json.loads(capsys.readouterr().out) == document


def ids(answer: Any) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def published(stream: Stream) -> tuple[dict[str, np.ndarray], ...]:
    """The last vector of every item there is, and those of its text and its image alone."""
    last = {record.key.decode(): record.value for record in stream.output_records()}
    messages = {item: decode(ItemVector, value) for item, value in last.items() if value is not None}
    fused = {item: message.vector.to_numpy().astype(np.float32) for item, message in messages.items()}
    alone = [
        {item: (message.modality_vectors or {})[name].to_numpy().astype(np.float32)
         for item, message in messages.items()}
        for name in ("text", "image")
    ]  # fmt: skip
    return fused, *alone


def test_a_topic_that_is_missing_is_named(stream: Stream, capsys: pytest.CaptureFixture[str]) -> None:
    """That of the users, where only items are published."""
    stream.feed_items(names(3))
    with WorkerThread(stream.settings()) as worker:
        stream.wait_committed(worker)
    users = UserStream(stream)
    assert len(ask(users, capsys, "--like", "item-00001")["answers"][0]["items"]) == 2
    groups = ("kafka.", "topics.")
    settings = [f"--{name}={as_text(value)}" for name, value in users.settings().items() if name.startswith(groups)]
    assert main(["recommend", *settings, "--user", "ada"]) == 4
    assert f"topics.user_vectors: topic {users.vectors!r} does not exist" in capsys.readouterr().err
    stream.broker.create_topics({users.vectors: 1})
    assert main(["recommend", *settings, "--user", "ada", "--with-seen"]) == 2
    assert "--user 'ada': there is no vector of this user" in capsys.readouterr().err
    assert main(["recommend", *settings, "--user", "ada"]) == 4
    assert f"topics.events: topic {users.events!r} does not exist; --with-seen" in capsys.readouterr().err
