"""Raw content in, vectors out, on real brokers: equal to what the encoders and the model give without the worker."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from schemas import Content, ItemVector, NewItem, Reason, decode, encode
from tests import media_files
from tests.brokers import Broker, Outgoing, read_topic
from tests.integration.stream import Stream
from tests.integration.worker_thread import WorkerThread
from tests.verifier import verify_topics
from tests.worker_process import WorkerProcess
from worker.align import AlignRuntime, Space, command
from worker.data.files import read_items, write_items
from worker.encode.command import encode_items
from worker.encode.setup import content_encoder
from worker.errors import ConfigError
from worker.settings import EncodeSettings, FetchSettings
from worker.state.input_log import KEY
from worker.state.items import ItemState

DIMS = {"text": 1_024, "image": 672, "frames": 672, "sound": 208}
NAMES = {
    "text": "builtin-text-v1", "image": "builtin-image-v1", "frames": "builtin-image-v1", "sound": "builtin-audio-v1",
}  # fmt: skip
ENCODERS = {
    "text": "builtin-text", "image": "builtin-image", "frames": "builtin-image@video", "sound": "builtin-audio@video",
}  # fmt: skip
SETTINGS = {
    "encode.encoders": ",".join(f"{name}={model}" for name, model in ENCODERS.items()),
    "encode.decoders": 2,
    "publish.vector_dtype": "f4",
}
HUES = ((200, 60, 30), (20, 180, 90), (90, 40, 220))


@pytest.fixture(scope="session")
def content_space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("spaces") / "content"
    command.create(path, DIMS, dim=32, encoders=NAMES, max_vectors={"frames": 4})
    return path


@pytest.fixture
def stream(topics: Mapping[str, str], broker: Broker, content_space: Path) -> Iterator[Stream]:
    """With a space for the built-in encoders."""
    with contextlib.closing(made_stream(broker, topics, content_space)) as made:
        yield made


def made_stream(broker: Broker, topics: Mapping[str, str], space: Path) -> Stream:
    made = Stream(broker, topics, Space.load(space), str(space))
    made.create_topics()
    return made


def settings(stream: Stream, **changes: Any) -> dict[str, Any]:
    renamed = {name.replace("__", "."): value for name, value in changes.items()}
    return stream.settings({**SETTINGS, **renamed})


def picture(number: int, kind: str = "JPEG", scale: int = 1) -> bytes:
    hue = HUES[number % 3]
    return media_files.picture(kind, media_files.scene(48 * scale, 64 * scale, hue=hue, at=0.2 + 0.1 * (number % 7)))


def item(name: str, revision: int = 1, *, partial: bool = False, **contents: bytes | str) -> NewItem:
    content = {
        modality: Content(text=raw) if isinstance(raw, str) else Content(data=raw) for modality, raw in contents.items()
    }
    return NewItem(item_id=name, revision=revision, event_time_ms=1_000, partial=partial, content=content)


def catalogue() -> list[NewItem]:
    """Of texts, pictures and films, alone and together, with and without sound."""
    film = media_files.film(title="The disc")
    silent = media_files.film("webm", "libvpx-vp9", sound_codec=None)
    made = [
        item(
            f"item-{number:03}", text=f"disc {number} over the sea", image=picture(number, ("JPEG", "PNG")[number % 2])
        )
        for number in range(24)
    ]
    made += [item(f"text-{number}", text=f"only words {number} " * (1 + 40 * (number % 3))) for number in range(24)]
    made += [item("film", video=film, text="a film"), item("silent", video=silent), item("trailer", video=film)]
    return made


def feed(stream: Stream, *items: NewItem) -> None:
    stream.feed(record(stream, each) for each in items)


def record(stream: Stream, message: NewItem) -> Outgoing:
    return stream.record(message.item_id, encode(message))


def vectors(stream: Stream) -> dict[str, ItemVector]:
    """The last of each item."""
    return {each.key.decode(): decode(ItemVector, each.value) for each in stream.output_records()}


def values(vector: ItemVector) -> NDArray[np.float32]:
    return vector.vector.to_numpy().astype(np.float32)


def offline(stream: Stream, items: list[NewItem], directory: Path) -> dict[str, NDArray[np.float32]]:
    """What `align-worker encode` and the model make of the items."""
    write_items(directory / "raw.msgpack", items)
    encoder = content_encoder(EncodeSettings(encoders=ENCODERS, decoders=2), space=stream.space.spec)
    with contextlib.closing(encoder):
        encode_items(directory / "raw.msgpack", directory / "features.msgpack", encoder, err=io.StringIO())
    runtime = AlignRuntime(stream.space, device="cpu", dtype="float32", threads=1, max_batch=1)
    return {
        each.item_id: runtime.embed([each.features]).vectors[0] for each in read_items(directory / "features.msgpack")
    }


def require_rules(stream: Stream, worker: WorkerThread) -> None:
    verdict = verify_topics(
        stream.broker.options,
        items=stream.items,
        item_vectors=stream.vectors,
        dead_letters=stream.letters,
        metrics_urls=[worker.metrics_url],
        space_id=stream.space.space_id,
    )
    assert verdict.ok, verdict.explain()


def test_the_worker_gives_what_encode_and_the_model_give(stream: Stream, tmp_path: Path) -> None:
    """With either delivery; the embedded broker has but one."""
    items = catalogue()
    feed(stream, *items)
    delivery = "exactly_once" if stream.broker.kind == "real" else "at_least_once"
    with WorkerThread(settings(stream, delivery=delivery)) as worker:
        stream.wait_committed(worker)
        require_rules(stream, worker)
        encoders = {each.modality: each for each in worker.items.encoders}
        assert worker.metric("align_encode_contents_total", modality="frames") == 2
        assert worker.metric("align_content_read_total", modality="video") == 2
        assert worker.metric("align_encode_cost_units_total", modality="text") > 0
    found, expected = vectors(stream), offline(stream, items, tmp_path)
    assert found.keys() == expected.keys()
    assert max(float(np.abs(values(found[name]) - expected[name]).max()) for name in expected) < 1e-5
    assert found["film"].modalities == ("frames", "sound", "text")
    assert found["silent"].modalities == ("frames",)
    assert (encoders["sound"].encoder, encoders["sound"].encoded, encoders["sound"].reused) == (NAMES["sound"], 1, 1)


def test_over_a_restart_parts_are_joined_and_nothing_is_encoded_twice(stream: Stream, tmp_path: Path) -> None:
    """With nothing but the changelog to tell, which holds features and no content. Of the item in parts, the picture
    comes late, a stale one later, and the text is replaced."""
    items = [item(f"i{number}", text=f"words {number}", image=picture(number, "PNG", 8)) for number in range(12)]
    feed(stream, *items, item("parts", 5, partial=True, text="first words"))
    with WorkerThread(settings(stream)) as worker:
        stream.wait_committed(worker)
    before = vectors(stream)
    feed(stream, *(each.model_copy(update={"revision": 2}) for each in items))
    feed(stream, item("i0", 3, text="other words", image=picture(0, "PNG", 8)))
    feed(
        stream,
        item("parts", 7, partial=True, image=picture(1)),
        item("parts", 6, partial=True, image=picture(2)),
        item("parts", 8, partial=True, text="last words"),
    )
    with WorkerThread(settings(stream)) as worker:
        stream.wait_committed(worker)
        counts = {
            (name, modality): worker.metric(f"align_encode_{name}_total", modality=modality)
            for name in ("contents", "reused")
            for modality in ("text", "image")
        }
    assert counts == {
        ("contents", "text"): 2, ("contents", "image"): 2, ("reused", "text"): 12, ("reused", "image"): 13,
    }  # fmt: skip
    after = vectors(stream)
    expected = offline(stream, [item("parts", text="last words", image=picture(1))], tmp_path)["parts"]
    assert (after["parts"].revision, after["parts"].modalities) == (8, ("image", "text"))
    assert np.abs(values(after["parts"]) - expected).max() < 1e-5
    assert all(after[name].revision >= 2 for name in before)
    unchanged = before.keys() - {"i0", "parts"}
    assert all(np.abs(values(before[name]) - values(after[name])).max() < 1e-5 for name in unchanged)
    states = [each.value for each in read_topic(stream.broker.options, stream.state) if each.key != KEY]
    assert len(states) > 24
    assert all(part.digest for state in states for part in ItemState.decode(state).parts.values())
    assert not any(b"\x89PNG" in state or b"words" in state for state in states)


def poison() -> dict[str, tuple[NewItem, Reason, str]]:
    """Items that cannot be used, by what is wrong with them."""
    bomb = media_files.picture("PNG", np.zeros((3_000, 3_000, 3), np.uint8))
    whole = picture(0)
    made = {
        "truncated": (item("truncated", image=whole[: len(whole) // 2]), Reason.UNDECODABLE, "image"),
        "empty": (item("empty", image=b""), Reason.UNDECODABLE, "image"),
        "text as image": (item("mistaken", image="a picture of a disc"), Reason.UNDECODABLE, "image"),
        "image as film": (
            item("frozen", video=b"\x00\x00\x00\x18ftypmp42" + b"\x00" * 99),
            Reason.UNDECODABLE,
            "video",
        ),
        "blank": (item("blank", text=" \n\t"), Reason.UNDECODABLE, "text"),
        "bomb": (item("bomb", image=bomb), Reason.TOO_LARGE, "image"),
        "good text beside": (item("half", text="good words", image=b"GIF89a"), Reason.UNDECODABLE, "image"),
    }
    uri = NewItem(
        item_id="uri", revision=1, event_time_ms=1, content={"image": Content(uri="https://example.com/a.jpg")}
    )
    return made | {"uri": (uri, Reason.URI_REFUSED, "image")}


def test_poison_media_cost_only_themselves(stream: Stream, tmp_path: Path) -> None:
    bad, good = poison(), catalogue()[:24]
    for number, (each, _, _) in enumerate(bad.values()):
        good.insert(3 * number, each)
    feed(stream, *good)
    with WorkerThread(settings(stream, encode__max_pixels=1_000_000)) as worker:
        stream.wait_committed(worker)
        require_rules(stream, worker)
        refused = worker.metric("align_encode_failures_total")
    letters = {letter.key: letter for letter in stream.dead_letters()}
    assert letters.keys() == {each.key for each, _, _ in bad.values()}
    for each, reason, modality in bad.values():
        letter = letters[each.key]
        assert (letter.reason, letter.stage, letter.value) == (reason, "encode", encode(each))
        assert letter.detail.startswith(f"content.{modality}: ")
    assert vectors(stream).keys() == {each.item_id for each in catalogue()[:24]}
    assert refused == len(bad) + 1  # a film counts for its frames and for its sound


def decoders(of: int | None = None) -> list[int]:
    """The processes that read media files for a worker, or for this one."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and b"decoder_process" in (entry / "cmdline").read_bytes():
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                found += [int(entry.name)] if parent == (of or os.getpid()) else []
    return found


def test_a_decoder_that_hangs_is_cut_off_and_stalls_nothing(stream: Stream) -> None:
    with WorkerThread(settings(stream, encode__decode_timeout_s=2, encode__decoders=1)) as worker:
        worker.wait_ready()
        (decoder,) = decoders()
        os.kill(decoder, signal.SIGSTOP)
        feed(stream, item("hung", image=picture(0)))
        worker.until(lambda: worker.items.accounting.in_flight == 1, name="at the hung one")
        started = time.monotonic()
        feed(stream, item("good", image=picture(1)), item("words", text="words"))
        stream.wait_committed(worker)
        assert time.monotonic() - started < 30
        assert worker.items.group_stable
    (letter,) = stream.dead_letters()
    assert (letter.key, letter.reason) == (b"hung", Reason.DECODER_FAILED)
    assert letter.detail == "content.image: decoding takes longer than 2 s"
    assert vectors(stream).keys() == {"good", "words"}
    assert decoders() == []


def test_a_server_that_never_answers_costs_the_item_its_time(stream: Stream, tmp_path: Path) -> None:
    """And what may be fetched is: a file under the root, whose content decides whether it is encoded again."""
    (tmp_path / "disc.jpg").write_bytes(picture(3))
    silent = socket.create_server(("127.0.0.1", 0))
    uris = {"slow": f"http://127.0.0.1:{silent.getsockname()[1]}/a.jpg", "file": f"file://{tmp_path}/disc.jpg"}

    def from_uri(name: str, revision: int = 1) -> NewItem:
        content = {"image": Content(uri=uris[name])}
        return NewItem(item_id=name, revision=revision, event_time_ms=1_000, content=content)

    rules = {
        "encode.fetch.schemes": "http,file",
        "encode.fetch.hosts": f"127.0.0.1:{silent.getsockname()[1]}",
        "encode.fetch.networks": "127.0.0.0/8",
        "encode.fetch.roots": tmp_path,
        "encode.fetch.timeout_s": 1,
        "encode.fetch.retries": 0,
    }
    assert set(rules) <= {f"encode.fetch.{name}" for name in FetchSettings.model_fields}
    feed(stream, from_uri("slow"), from_uri("file"))
    with contextlib.closing(silent), WorkerThread(settings(stream, **rules)) as worker:
        stream.wait_committed(worker)
        feed(stream, from_uri("file", 2))
        stream.wait_committed(worker)
        assert worker.metric("align_encode_contents_total", modality="image") == 1
        assert worker.metric("align_encode_reused_total", modality="image") == 1
        assert worker.metric("align_fetches_total", modality="image") == 3
        assert worker.metric("align_fetch_failures_total", modality="image") == 1
        assert worker.metric("align_fetch_seconds_total", modality="image") >= 1
    (letter,) = stream.dead_letters()
    assert (letter.key, letter.reason) == (b"slow", Reason.FETCH_FAILED)
    assert vectors(stream)["file"].revision == 2


@pytest.mark.real_kafka
def test_nothing_is_lost_when_a_worker_is_killed_at_its_encoders(
    topics: Mapping[str, str], real_kafka: Broker, content_space: Path
) -> None:
    """And no decoder is left behind."""
    with contextlib.closing(made_stream(real_kafka, topics, content_space)) as stream:
        feed(stream, *(item(f"i{number:03}", image=picture(number, "PNG", 6)) for number in range(200)))
        with WorkerProcess(settings(stream)) as killed:
            killed.wait_ready()
            own = decoders(killed.pid)
            killed.wait_until(lambda: killed.metric("align_content_read_total") > 0, name="at its encoders")
            killed.signal(signal.SIGKILL)
            killed.wait()
        assert len(own) == 2
        with WorkerThread(settings(stream)) as worker:
            feed(stream, *(item(f"i{number:03}", 2, image=picture(number, "PNG", 6)) for number in range(20)))
            stream.wait_committed(worker)
            require_rules(stream, worker)
        assert len(vectors(stream)) == 200
        assert not any(Path(f"/proc/{pid}").exists() for pid in own)


@pytest.mark.parametrize(
    ("encoders", "message"),
    [
        (
            "text=builtin-image",
            "text: the space expects 1024 dims of builtin-text-v1, this encoder is builtin-image-v1",
        ),
        ("smell=builtin-text", "the space has no modality 'smell'; it has"),
        ("text=builtin-words", "'builtin-words' is unknown"),
    ],
)
def test_an_encoder_that_the_space_does_not_expect_is_refused_at_start(
    stream: Stream, encoders: str, message: str
) -> None:
    with WorkerThread(settings(stream, encode__encoders=encoders)) as worker:
        error = worker.failure()
    assert isinstance(error, ConfigError)
    assert error.one_line().startswith("encode.encoders: ")
    assert message in error.one_line()
