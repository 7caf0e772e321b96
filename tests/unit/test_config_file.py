"""The settings file as editors and people write it."""

import os
from pathlib import Path
from typing import Any

import pytest

from worker.__main__ import main
from worker.config_file import read_config
from worker.errors import ConfigError
from worker.settings import load


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("ALIGN_"):
            monkeypatch.delenv(name)


@pytest.fixture
def written(tmp_path: Path) -> Any:
    def write(content: Any) -> Any:
        path = tmp_path / "worker.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def refusal(path: Any) -> Any:
    with pytest.raises(ConfigError) as raised:
        load(file=path)
    assert "\n" not in raised.value.one_line()
    assert str(path) in raised.value.one_line()
    return raised.value.one_line()


GROUP = "kafka:\n  group_id: mine\n"


@pytest.mark.parametrize(
    "content",
    [
        GROUP,
        GROUP.replace("\n", "\r\n"),
        GROUP.replace("\n", "\r"),
        b"\xef\xbb\xbf" + GROUP.encode(),
        GROUP.encode("utf-16"),
        b"\xfe\xff" + GROUP.encode("utf-16-be"),
        GROUP.encode("utf-32"),
        "# café\n" + GROUP,
    ],
    ids=["plain", "crlf", "cr", "bom", "utf-16", "utf-16-be", "utf-32", "not-ascii"],
)
def test_the_encodings_that_say_what_they_are_are_read(written: Any, content: bytes | str) -> None:
    assert load(file=written(content)).kafka.group_id == "mine"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"# caf\xe9\n" + GROUP.encode(), "line 1: byte 0xe9 is not UTF-8: save the file as UTF-8"),
        (GROUP.encode() + b"# caf\xe9\n", "line 3: byte 0xe9"),
        (GROUP.encode("utf-16-le"), "save the file as UTF-8"),
        (b"\xff\xfe\x00\xd8", "is not UTF-16"),
        (b"\x7fELF\x01\x01" + bytes(range(256)), "line 2: byte 0x80"),
        (b"a" * 300_000, "larger than 256 KiB"),
        ("kafka:\n\tgroup_id: a\n", "line 2 is not YAML: a tab where only spaces may indent"),
        ("kafka: {group_id: a\n", "line 2 is not YAML: while parsing a flow mapping expected ',' or '}'"),
        (GROUP + "---\n" + GROUP, "line 3 is not YAML: expected a single document"),
        (GROUP + "x: \x1b[2J\n", "line 3 is not YAML: it holds the character U+001B"),
        ("kafka:\n  group_id: a\nspace:\n  path: /s\nkafka:\n  client_id: b\n", "line 5: kafka is given twice, first"),
        ("kafka:\n  group_id: a\n  linger_ms: 1\n  group_id: b\n", "line 4: kafka.group_id is given twice"),
        ("kafka: {group_id: a, group_id: b}\n", "line 1: kafka.group_id is given twice"),
        ("encode: {encoders: {text: a, text: b}}\n", "encode.encoders.text is given twice"),
        ("? [a]\n: 1\n", "line 1: a key must be a name"),
        ("~: 1\n", "line 1: a key must be a name"),
        ("kafka: !!python/object:os.system {}\n", "line 1: the tag !!python/object:os.system is not taken"),
        ("kafka:\n  group_id: !secret x\n", "line 2: the tag !secret is not taken"),
        ("kafka:\n  group_id: !!binary aGk=\n", "line 2: the tag !!binary is not taken"),
        ("- a\n", "must hold settings"),
        ("group_id\n", "must hold settings"),
        ("kafka: [a]\n", "kafka ("),
        ("\nkafka: b\n", "line 2): must hold settings, as kafka: {bootstrap_servers: …}"),
        ("encode:\n  fetch: 5\n", "line 2): must hold settings, as encode: {fetch: {schemes: …}}"),
        ("kafka.group_id: a\n", "line 1): in a file it is written kafka: {group_id: …}"),
        ("kafka:\n  grup_id: a\n", "line 2): no such setting; did you mean kafka.group_id?"),
        ("kafka:\n  grup_id:\n", "line 2): no such setting"),
        ("Kafka:\n  group_id: a\n", "line 1): no such setting"),
        ("kafka:\n  linger_ms: 1\n  batch: 4\n", "line 3): no such setting"),
        ("kafka:\n  linger_ms: many\n", "kafka.linger_ms ("),
        ("http:\n  port: 0x10\n", "line 2): Input should be a valid integer"),
        ("http:\n  port: [1, 2]\n", "http.port ("),
        ("roles: {items: true}\n", "line 1): must be a list, as a,b"),
        ("roles: [items, [users]]\n", "roles ("),
        ("encode:\n  encoders: [a]\n", "line 2): must be a map, as a=b,c=d"),
        ("topics:\n  items: [a]\n", "line 2): must be one text"),
        ("log:\n  level: loud\n", "line 2): Input should be 'debug', 'info', 'warning' or 'error'"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_with_the_line_and_the_cause(written: Any, content: bytes | str, told: str) -> None:
    assert told in refusal(written(content))


def test_names_of_strangers_cannot_drive_the_terminal(written: Any) -> None:
    told = refusal(written('"\\e[2J\\u202e": 1\n'))
    assert "\x1b" not in told
    assert "\u202e" not in told
    assert "\\u001b[2J\\u202e (" in told


@pytest.mark.parametrize(
    "content",
    [
        "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n"
        "d: &d [*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d,*d]\n",
        "a: &a [*a]\n",
        "a: &a {<<: *a}\n",
        "a: " + "[" * 3_000,
        "a: " + "[" * 100 + "]" * 100,
    ],
    ids=["aliases of aliases", "list in itself", "map in itself", "never closed", "deep"],
)
@pytest.mark.timeout(60)
def test_a_bomb_is_refused(written: Any, content: str) -> None:
    assert "nested too deeply" in (told := refusal(written(content))) or "more than 10,000 values" in told


def test_a_value_means_what_it_means_in_a_variable(written: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "kafka.client_id": "no", "kafka.group_id": "0123", "kafka.sasl_username": "12:30:00", "http.port": "09464",
        "transaction.id": "2026-11-30", "kafka.check_crcs": "off", "kafka.linger_ms": "1_0",
        "shutdown.drain_timeout_s": "2e1", "roles": "users,items", "batch.padded_sizes": "64,512",
    }  # fmt: skip
    lines = "".join(
        f"{group}:\n" + "".join(f"  {name.split('.')[1]}: {value}\n" for name, value in values.items()
                                if name.startswith(f"{group}.") and "," not in value)
        for group in ("kafka", "http", "transaction", "shutdown")
    )  # fmt: skip
    from_file = load(file=written(lines + "roles: [users, items]\nbatch: {padded_sizes: [64, 512]}\n"))
    for name, value in values.items():
        monkeypatch.setenv("ALIGN_" + name.upper().replace(".", "__"), value)
    assert load() == from_file
    assert (from_file.kafka.client_id, from_file.kafka.group_id, from_file.http.port) == ("no", "0123", 9464)
    assert from_file.kafka.check_crcs is False


def test_a_name_without_a_value_is_as_one_left_out(written: Any) -> None:
    assert load(file=written("kafka:\n#  group_id: x\ntopics:\n  items:\nspace: ~\n")) == load()
    assert load(file=written("")) == load(file=written("# nothing\n---\n")) == load()


def test_anchors_and_merged_maps_are_read(written: Any) -> None:
    content = "kafka: &k\n  group_id: a\n  linger_ms: 7\ntopics:\n  items: &name cat\n  events: e\n"
    assert load(file=written(content)).kafka.linger_ms == 7
    found = read_config(written("a: &a {x: 1, y: 2}\nb: &b {y: 3}\nc:\n  <<: [*b, *a]\n  x: 4\n")).values
    assert found["c"] == {"x": "4", "y": "3"}


def test_the_place_of_a_wrong_value_is_the_one_that_holds(written: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written("\nkafka:\n  linger_ms: -1\n")
    assert "kafka.linger_ms (" + str(path) + ", line 3): " in refusal(path)
    monkeypatch.setenv("ALIGN_KAFKA__LINGER_MS", "")
    assert ", line 3): " in refusal(path)
    monkeypatch.setenv("ALIGN_KAFKA__LINGER_MS", "-2")
    with pytest.raises(ConfigError, match=r"kafka\.linger_ms \(ALIGN_KAFKA__LINGER_MS\): "):
        load(file=path)
    with pytest.raises(ConfigError, match=r"kafka\.linger_ms \(--kafka\.linger_ms\): "):
        load({"kafka.linger_ms": "-3"}, path)


def test_what_is_no_file_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--config", str(tmp_path)]) == 2
    assert "is a directory" in capsys.readouterr().err
    assert main(["config", "--config", str(tmp_path / "none.yaml")]) == 2
    assert "No such file" in capsys.readouterr().err
    assert main(["config", "--config", "a\0b"]) == 2
    assert "no such name" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_told(written: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(GROUP)
    path.chmod(0)
    assert main(["config", "--config", str(path)]) == 2
    assert "Permission denied" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("align_kafka__group_id", "variables are written in capitals: ALIGN_KAFKA__GROUP_ID"),
        ("Align_Kafka__Group_Id", "variables are written in capitals: ALIGN_KAFKA__GROUP_ID"),
        ("align_kafak__group_id", "no such setting; did you mean ALIGN_KAFKA__GROUP_ID?"),
        ("ALIGN_KAFKA_GROUP_ID", "no such setting; did you mean ALIGN_KAFKA__GROUP_ID?"),
        ("ALIGN_KAFKA", "no such setting"),
    ],
)
def test_a_variable_that_is_not_written_exactly_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, told: str
) -> None:
    monkeypatch.setenv(name, "x")
    with pytest.raises(ConfigError) as raised:
        load()
    assert raised.value.one_line().startswith(f"{name}: ")
    assert told in raised.value.one_line()


@pytest.mark.parametrize(
    ("servers", "told"),
    [
        ("PLAINTEXT://localhost:9092", "is a URL"),
        ("a:9092,SSL://b:9093", "'SSL://b:9093' is a URL"),
        ("broker", "'broker' has no port: write host:port, as broker:9092"),
        ("a:9092,b", "'b' has no port"),
        ("a:9092,", "an entry is empty"),
        (",a:9092", "an entry is empty"),
        ("", "an entry is empty"),
        ("a:9092;b:9092", "is no host:port"),
        ("a b:9092", "is no host:port"),
        (":9092", "is no host:port"),
        ("a:", "the port must be a number from 1 to 65535"),
        ("a:0", "the port must be a number from 1 to 65535"),
        ("a:65536", "the port must be a number from 1 to 65535"),
        ("a:" + "9" * 5_000, "the port must be a number"),
        ("a:٣", "the port must be a number"),
        ("a:9092/", "the port must be a number"),
        ("::1:9092", "an IPv6 address stands in brackets, as [::1]:9092"),
        ("[::1]", "has no port"),
        ("[::g]:9092", "what stands in brackets must be an IPv6 address"),
    ],
)
def test_addresses_of_brokers_are_checked_before_anything_waits_for_them(servers: str, told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load({"kafka.bootstrap_servers": servers})
    assert raised.value.one_line().startswith("kafka.bootstrap_servers (--kafka.bootstrap_servers): ")
    assert told in raised.value.one_line()


def test_good_addresses_of_brokers_are_taken(written: Any) -> None:
    assert load({"kafka.bootstrap_servers": " a:9092 , [::1]:9092"}).kafka.bootstrap_servers == "a:9092,[::1]:9092"
    listed = load(file=written("kafka:\n  bootstrap_servers:\n  - a:9092\n  - b_1.c-d:9093\n"))
    assert listed.kafka.bootstrap_servers == "a:9092,b_1.c-d:9093"
