"""`align-worker encode`: items with content in, items with features out."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest

from schemas import Content, Feature, NewItem, Reason
from tests import media_files
from worker.__main__ import main
from worker.data.files import read_items, write_items
from worker.encode.command import encode_items, read_directory
from worker.encode.setup import content_encoder
from worker.errors import DataError
from worker.settings import EncodeSettings

ENCODERS = {"text": "builtin-text", "image": "builtin-image"}


def item(number: int, **fields: object) -> NewItem:
    return NewItem(item_id=f"i{number}", revision=number, event_time_ms=1_000, **fields)  # type: ignore[arg-type]


ITEMS = [
    item(0, content={"text": Content(text="a disc"), "image": Content(data=media_files.picture())}),
    item(1, content={"image": Content(data=b"broken")}),
    item(2, features={"text": Feature.from_numpy([1.0, 2.0], encoder="mine")}, content={"text": Content(text="a")}),
    item(3, content={"text": Content(text="two discs")}, neighbors=("i0",), partial=True),
]


def test_items_come_out_with_features_in_order(tmp_path: Path) -> None:
    write_items(tmp_path / "in", ITEMS)
    encoder, err = content_encoder(EncodeSettings(encoders=ENCODERS)), io.StringIO()
    summary = encode_items(tmp_path / "in", tmp_path / "out", encoder, err=err)
    encoder.close()
    out = list(read_items(tmp_path / "out"))
    assert [each.item_id for each in out] == ["i0", "i2", "i3"]
    assert out[0].features.keys() == {"text", "image"}
    assert out[0].features["text"].encoder == "builtin-text-v1"
    assert out[1].features == ITEMS[2].features
    assert out[2].model_copy(update={"features": {}, "content": {}}) == ITEMS[3].model_copy(update={"content": {}})
    assert (summary.items, summary.encoded, summary.unchanged) == (4, 2, 1)
    assert summary.refused == {Reason.UNDECODABLE.value: 1}
    assert "i1: undecodable: content.image: " in err.getvalue()


def test_content_can_be_kept(tmp_path: Path) -> None:
    write_items(tmp_path / "in", ITEMS[3:])
    encoder = content_encoder(EncodeSettings(encoders=ENCODERS))
    encode_items(tmp_path / "in", tmp_path / "out", encoder, keep_content=True)
    encoder.close()
    (out,) = read_items(tmp_path / "out")
    assert out.content == ITEMS[3].content


def test_files_of_one_name_are_one_item(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "1.jpg").write_bytes(media_files.picture())
    (tmp_path / "shop" / "1.txt").write_text("a disc")
    (tmp_path / "2.WAV").write_bytes(media_files.wav())
    (tmp_path / "notes.pdf").write_bytes(b"%PDF")
    items = {each.item_id: each.content for each in read_directory(tmp_path) if isinstance(each, NewItem)}
    assert items.keys() == {"2", "shop/1"}
    assert items["shop/1"].keys() == {"image", "text"}
    assert items["2"].keys() == {"audio"}


def test_a_directory_that_cannot_be_understood_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no file with one of"):
        list(read_directory(tmp_path))
    for name in ("1.jpg", "1.png"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match="1 has more than one file for image"):
        list(read_directory(tmp_path))


def test_a_file_that_cannot_be_content_costs_its_item_alone(tmp_path: Path) -> None:
    root = tmp_path / "media"
    root.mkdir()
    (root / "good.txt").write_text("a disc")
    (root / "latin.txt").write_bytes("a d\xefsc".encode("latin-1"))
    (root / "long.txt").write_text("a" * 300_000)
    (root / "large.txt").write_text("a" * 300_001)
    (root / ("d/" * 260)).mkdir(parents=True)
    (root / ("d/" * 260) / "deep.txt").write_text("a disc")
    (root / "film.mp4").write_bytes(bytes(400_000))  # no encoder takes it, so it is not read
    with open(os.fsencode(root) + b"/\xe9.txt", "w") as file:
        file.write("a disc")
    encoder, err = content_encoder(EncodeSettings(encoders={"text": "builtin-text"})), io.StringIO()
    try:
        summary = encode_items(root, tmp_path / "out", encoder, max_bytes=300_000, err=err)
    finally:
        encoder.close()
    assert {each.item_id for each in read_items(tmp_path / "out")} == {"good", "film"}
    assert summary.items == 7
    assert summary.refused == {"undecodable": 1, "too_large": 2, "invalid_field": 2}
    told = err.getvalue()
    assert "latin: undecodable: latin.txt is no text in UTF-8: it holds the byte 0xef" in told
    assert "long: too_large: long.txt has 300000 characters, the limit is 262144" in told
    assert "large: too_large: large.txt has more bytes than the limit of 300000 (encode.max_bytes)" in told
    assert "deep: invalid_field: item_id: " in told
    assert told.isascii()


def test_a_file_of_before_1970_is_an_item_of_1970(tmp_path: Path) -> None:
    (tmp_path / "old.txt").write_text("a disc")
    os.utime(tmp_path / "old.txt", (-1_000_000, -1_000_000))
    (found,) = read_directory(tmp_path)
    assert isinstance(found, NewItem)
    assert found.event_time_ms == 0


def test_the_command_prints_what_became_of_the_items(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_items(tmp_path / "in", ITEMS)
    paths = [str(tmp_path / "in"), str(tmp_path / "out")]
    flags = ["--encode.encoders=text=builtin-text,image=builtin-image"]
    assert main(["encode", *paths, *flags, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["features"] == {"text": 2, "image": 1}
    assert summary["encoders"] == {"text": "builtin-text-v1", "image": "builtin-image-v1"}
    assert main(["encode", *paths, *flags]) == 0
    assert "4 items in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("items", "flags", "code"),
    [
        (ITEMS[1:2], [], 13),
        (ITEMS[1:2], ["--max-refused=1"], 13),
        (ITEMS, [], 0),
        (ITEMS, ["--max-refused=0.2"], 13),
        (ITEMS, ["--max-refused=0.25"], 0),
    ],
    ids=["all", "all, whatever may be", "a quarter", "more than may be", "as many as may be"],
)
def test_it_fails_when_all_or_too_many_items_are_refused(
    tmp_path: Path, items: list[NewItem], flags: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    write_items(tmp_path / "in", items)
    paths = [str(tmp_path / "in"), str(tmp_path / "out")]
    assert main(["encode", *paths, "--encode.encoders=text=builtin-text,image=builtin-image", *flags]) == code
    assert (f"1 of {len(items)} items were refused" in capsys.readouterr().err) is bool(code)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "encode.encoders is not set"),
        (["--encode.encoders=text=builtin-text", "--max-vectors=text=0"], "expected a whole number"),
        (["--encode.encoders=text=builtin-text", "--space.path=/nowhere"], "space"),
    ],
)
def test_what_is_wrong_with_the_command_is_said(
    tmp_path: Path, flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_items(tmp_path / "in", ITEMS)
    assert main(["encode", str(tmp_path / "in"), str(tmp_path / "out"), *flags]) != 0
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_strangers_call_an_item_cannot_drive_the_terminal(tmp_path: Path) -> None:
    item = NewItem(item_id="red\x1b[31m\n", revision=1, event_time_ms=0, content={"image": Content(data=b"no picture")})
    write_items(tmp_path / "in.msgpack", [item])
    encoder, told = content_encoder(EncodeSettings(encoders={"image": "builtin-image"})), io.StringIO()
    try:
        encode_items(tmp_path / "in.msgpack", tmp_path / "out.msgpack", encoder, err=told)
    finally:
        encoder.close()
    assert told.getvalue().startswith("red\\u001b[31m\\n: undecodable: ")
    assert told.getvalue()[:-1].isprintable()
