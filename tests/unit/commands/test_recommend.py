"""`align-worker recommend` from files to answers."""

import json
from pathlib import Path
from typing import Any

import pytest

from schemas import Content, Feature, NewItem, Tensor, encode
from tests.unit.recommend.published import event, item_vector, user_vector, world
from worker.__main__ import main
from worker.align import AlignRuntime, Space, command
from worker.data.files import read_item_vectors, read_items, write_encoded, write_events, write_items
from worker.data.lists import write_titles
from worker.encode.builtin import BUILTIN

TEXTS = {
    "bread": "baking bread with sourdough at home",
    "ice": "ice hockey on a frozen lake",
    "jazz": "jazz piano for beginners",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("files")
    items, users, events = world()
    write_encoded(folder / "items.msgpack", map(encode, items))
    write_encoded(folder / "users.msgpack", map(encode, users))
    write_events(folder / "events.msgpack", events)
    write_titles(folder / "titles.csv", [("right", "To the Right"), ("rightish", "More or Less Right")])
    return folder


def flags(files: Any) -> Any:
    return ["recommend", "--item-vectors", f"{files}/items.msgpack", "--user-vectors", f"{files}/users.msgpack"]


def answers(arguments: Any, capsys: pytest.CaptureFixture[str]) -> Any:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def ids(found: Any) -> Any:
    return [item["item_id"] for item in found["items"]]


def test_answers_as_json(files: Any, capsys: pytest.CaptureFixture[str]) -> None:
    document = answers(
        [*flags(files), "--events", f"{files}/events.msgpack", "--titles", f"{files}/titles.csv", "--user", "ada",
         "--like", "up", "--count", "2"],
        capsys,
    )  # fmt: skip
    user, like = document["answers"]
    assert (user["user"], user["num_events"], user["num_seen"], user["score"]) == ("ada", 3, 2, "cosine+prior")
    assert ids(user) == ["upish", "rightish"]
    assert user["items"][1]["title"] == "More or Less Right"
    assert user["items"][0]["modalities"] == ["behavior", "text"]
    assert (like["like"], ids(like)) == ("up", ["upish", "rightish"])
    assert document["num_items"] == 4


def test_answers_as_a_table(files: Any, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*flags(files), "--events", f"{files}/events.msgpack", "--titles", f"{files}/titles.csv"]
    assert main([*arguments, "--user", "ada", "--like", "right"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "user ada: 3 events, the newest 1970-01-01T00:00:05Z; 2 items seen, left out",
        "  1970-01-01T00:00:00Z  dislike  up",
        "  1970-01-01T00:00:00Z  like  right  To the Right",
        "    1   1.3091  upish                         behavior+text",
        "    2   0.9754  rightish  More or Less Right  image+text",
        "",
        "like right (To the Right)",
        "    1   0.9487  rightish  More or Less Right  image+text",
        "    2   0.3162  upish                         behavior+text",
        "    3   0.0000  up                            image+text",
    ]


def test_who_has_the_id_of_an_item_is_not_called_by_its_title(
    files: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_titles(tmp_path / "titles.csv", [("ada", "Ada, a Film"), ("up", "Upwards")])
    assert main([*flags(files), "--titles", f"{tmp_path}/titles.csv", "--user", "ada", "--like", "up"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("user ada: 3 events")
    assert "like up (Upwards)" in lines


def test_a_title_that_is_cut_says_so(files: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_titles(tmp_path / "titles.csv", [("right", "R" * 60), ("rightish", "Long, very " + "L" * 60)])
    assert main([*flags(files), "--titles", f"{tmp_path}/titles.csv", "--like", "up"]) == 0
    table = capsys.readouterr().out
    assert f" {'R' * 60}  " in table
    assert f" Long, very {'L' * 48}…  " in table


def test_without_events_it_is_said_that_nothing_is_left_out(files: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*flags(files), "--user", "ada", "--score", "cosine"]) == 0
    output = capsys.readouterr()
    assert "not known what users have seen" in output.err
    assert "    1   0.9950  right " in output.out


def test_a_modality_of_the_query_and_one_of_the_items(files: Any, capsys: pytest.CaptureFixture[str]) -> None:
    document = answers([*flags(files), "--like", "rightish", "--by", "image", "--among", "text"], capsys)
    assert document["answers"][0]["by"] == "image"
    assert ids(document["answers"][0])[0] == "up"


@pytest.mark.parametrize("flag", ["--by", "--among"])
def test_one_modality_of_an_item_is_compared_with_the_same_one(
    files: Any, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    (alone,) = answers([*flags(files), "--like", "rightish", flag, "image"], capsys)["answers"]
    assert (alone["by"], ids(alone)) == ("image", ["up", "right"])
    (whole,) = answers([*flags(files), "--like", "rightish"], capsys)["answers"]
    assert ids(whole)[0] == "right"


def test_what_cannot_be_used_is_told(files: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items, _, _ = world()
    other = [item_vector("far", 1, 0, space_id="other")]
    write_encoded(tmp_path / "items.msgpack", map(encode, [*items, *other]))
    assert main(["recommend", "--item-vectors", f"{tmp_path}/items.msgpack", "--like", "right"]) == 0
    assert "1 vectors are of space other and were ignored" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "nothing is asked"),
        (["--user-vectors", "u", "--user", "ada"], "--item-vectors is missing"),
        (["--item-vectors", "i", "--user", "ada"], "--user needs --user-vectors"),
        (["--item-vectors", "i", "--save", "d"], "--save reads topics"),
        (["--user", "ada", "--by", "text"], "a user is made of whole items"),
        (["--user", "ada", "--like", "up", "--among", "text"], "a user is made of whole items"),
    ],
)
def test_flags_that_make_no_sense_are_refused(more: list[Any], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", *more]) == 2
    assert said in capsys.readouterr().err


def test_an_unknown_user_and_a_missing_file_have_their_own_exit_codes(
    files: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*flags(files), "--user", "eve"]) == 2
    assert "--user 'eve'" in capsys.readouterr().err
    assert main(["recommend", "--item-vectors", f"{tmp_path}/none", "--like", "up"]) == 10
    assert f"{tmp_path}/none: there is no such file" in capsys.readouterr().err


# --------------------------------------------------------- queries that are no item


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A space of text, its items' vectors in a file, and the flags that name both."""
    folder = tmp_path_factory.mktemp("texts")
    encoder = BUILTIN["builtin-text"]()
    command.create(folder / "space", {"text": encoder.dim, "mood": 4}, 32, encoders={"text": encoder.name})
    items = [
        NewItem(item_id=name, revision=1, event_time_ms=0, content={"text": Content(text=text)})
        for name, text in TEXTS.items()
    ]
    write_items(folder / "raw.msgpack", items)
    settings = ["--space.path", f"{folder}/space", "--encode.encoders", "text=builtin-text", "--device", "cpu"]
    assert main(["encode", f"{folder}/raw.msgpack", f"{folder}/encoded.msgpack", *settings]) == 0

    space = Space.load(folder / "space")
    features = {item.item_id: dict(item.features) for item in read_items(folder / "encoded.msgpack")}
    features["happy"] = {"mood": Feature.from_numpy([1, 2, 3, 4], encoder="m")}
    embedded = AlignRuntime(space, device="cpu", dtype="float32", threads=1).embed(list(features.values()))
    vectors = [
        item_vector(name, 1, space_id=space.space_id).model_copy(update={"vector": Tensor.from_numpy(vector, "f4")})
        for name, vector in zip(features, embedded.vectors, strict=True)
    ]
    write_encoded(folder / "vectors.msgpack", map(encode, vectors))
    return folder, ["recommend", "--item-vectors", f"{folder}/vectors.msgpack", *settings]


def test_words_find_what_they_are_about(texts: Any, capsys: pytest.CaptureFixture[str]) -> None:
    _, arguments = texts
    document = answers([*arguments, "--text", "sourdough bread", "--text", "frozen lake hockey"], capsys)
    assert [ids(each)[0] for each in document["answers"]] == ["bread", "ice"]


def test_words_beside_items_of_more_than_text_come_with_a_hint(
    texts: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, arguments = texts
    hint = "--among compares that modality alone"
    assert main([*arguments, "--text", "sourdough bread"]) == 0
    assert hint not in capsys.readouterr().err  # no item has more than one modality
    items = list(read_item_vectors(folder / "vectors.msgpack"))
    items[0] = items[0].model_copy(update={"modalities": ("mood", "text")})
    write_encoded(tmp_path / "vectors.msgpack", map(encode, items))
    mixed = [part.replace(f"{folder}/vectors", f"{tmp_path}/vectors") for part in arguments]
    assert main([*mixed, "--text", "sourdough bread"]) == 0
    assert hint in capsys.readouterr().err
    assert main([*mixed, "--like", "bread"]) == 0
    assert hint not in capsys.readouterr().err


def test_files_find_what_is_like_them(texts: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, arguments = texts
    (tmp_path / "words.txt").write_text(TEXTS["jazz"])
    happy = NewItem(
        item_id="query", revision=1, event_time_ms=0,
        features={"mood": Feature.from_numpy([1, 2, 3, 4], encoder="m")}, content={"text": Content(text=TEXTS["ice"])},
    )  # fmt: skip
    write_items(tmp_path / "item.msgpack", [happy])
    paths = ["--file", f"{tmp_path}/words.txt", "--file", f"{tmp_path}/item.msgpack"]
    jazz, both = answers([*arguments, *paths], capsys)["answers"]
    assert (ids(jazz)[0], jazz["items"][0]["score"]) == ("jazz", pytest.approx(1, abs=1e-5))
    assert set(ids(both)[:2]) == {"happy", "ice"}
    (alone,) = answers([*arguments, *paths[2:], "--by", "mood"], capsys)["answers"]
    assert (ids(alone)[0], alone["items"][0]["score"]) == ("happy", pytest.approx(1, abs=1e-5))


def test_words_are_looked_for_among_vectors_of_one_modality_by_their_own(
    texts: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the worker publishes them: the same text is then the same vector, and not that of a whole item."""
    folder, arguments = texts
    space = Space.load(folder / "space")
    items = list(read_items(folder / "encoded.msgpack"))
    features = [dict(item.features) for item in items]
    embedded = AlignRuntime(space, device="cpu", dtype="float32", threads=1, modality_vectors=True).embed(features)
    alone = embedded.modality_vectors["text"]
    vectors = [
        item_vector(item.item_id, 1, space_id=space.space_id).model_copy(
            update={
                "vector": Tensor.from_numpy(whole, "f4"), "modality_vectors": {"text": Tensor.from_numpy(own, "f4")},
            }
        )
        for item, whole, own in zip(items, embedded.vectors, alone, strict=True)
    ]  # fmt: skip
    write_encoded(tmp_path / "vectors.msgpack", map(encode, vectors))
    published = {f"{folder}/vectors.msgpack": f"{tmp_path}/vectors.msgpack"}
    asked = [published.get(part, part) for part in arguments]
    questions = ["--text", TEXTS["jazz"], "--like", "bread", "--among", "text"]
    like, jazz = answers([*asked, *questions], capsys)["answers"]
    assert (ids(jazz)[0], jazz["items"][0]["score"]) == ("jazz", pytest.approx(1, abs=1e-5))
    assert (like["by"], set(ids(like))) == ("text", {"ice", "jazz"})


@pytest.mark.parametrize(
    ("drop", "more", "code", "said"),
    [
        ("--space.path", ["--text", "x"], 2, "space.path is not set"),
        ("--encode.encoders", ["--text", "x"], 2, "--text: encode.encoders is not set"),
        ("", ["--text", "x", "--by", "mood"], 2, "--by mood: --text has no mood"),
        ("", ["--text", "caf\udce9"], 2, "--text: "),
        ("", ["--file", "x.jpg"], 10, "x.jpg: there is no such file"),
        ("", ["--file", "raw.msgpack"], 10, "raw.msgpack: holds 3 items; a query is one"),
    ],
)
def test_a_query_that_cannot_be_made_is_explained(
    texts: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    drop: str,
    more: list[Any],
    code: int,
    said: str,
) -> None:
    folder, arguments = texts
    monkeypatch.chdir(folder)
    if drop:
        place = arguments.index(drop)
        arguments = arguments[:place] + arguments[place + 2 :]
    assert main([*arguments, *more]) == code
    assert said in capsys.readouterr().err


def test_a_picture_needs_an_encoder_of_pictures(texts: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, arguments = texts
    (tmp_path / "a.png").write_bytes(b"not looked at")
    assert main([*arguments, "--file", f"{tmp_path}/a.png"]) == 2
    assert "encode.encoders has none for image; it has for text" in capsys.readouterr().err


def test_what_the_events_say_needs_the_event(files: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A user without events among those that are there has seen nothing."""
    write_events(tmp_path / "events.msgpack", [event("bob", "up", 2)])
    write_encoded(tmp_path / "users.msgpack", [encode(user_vector("ada", 1, 0))])
    arguments = ["recommend", "--item-vectors", f"{files}/items.msgpack", "--user-vectors", f"{tmp_path}/users.msgpack"]
    document = answers([*arguments, "--events", f"{tmp_path}/events.msgpack", "--user", "ada"], capsys)
    assert document["answers"][0]["num_seen"] == 0
    assert len(document["answers"][0]["items"]) == 4
