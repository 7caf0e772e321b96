import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from worker.errors import ConfigError
from worker.settings import Settings, load, redacted, setting_names, variable


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("ALIGN_"):
            monkeypatch.delenv(name)


def test_the_names_that_users_script_against_exist() -> None:
    fixed = """kafka.bootstrap_servers kafka.group_id kafka.client topics.items topics.events topics.item_vectors
    topics.user_vectors topics.dead_letters space.path roles delivery batch.max_records batch.max_bytes batch.max_age_ms
    device dtype state.dir http.host http.port log.level log.format"""
    assert set(fixed.split()) <= set(setting_names())


def test_every_setting_that_is_not_its_own_explanation_is_described() -> None:
    undescribed = {name for name, description in setting_names().items() if not description}
    assert undescribed <= {
        "topics.items", "topics.events", "topics.item_vectors", "topics.user_vectors", "topics.dead_letters",
        "kafka.security_protocol", "kafka.sasl_mechanism", "kafka.sasl_username", "kafka.sasl_password",
        "kafka.ssl_cafile", "kafka.ssl_certfile", "kafka.ssl_keyfile", "kafka.ssl_key_password",
        "kafka.ssl_check_hostname", "log.level", "log.format",
    }  # fmt: skip


def test_flags_win_over_the_environment_and_that_over_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "worker.yaml"
    file.write_text("kafka: {group_id: from-file, client_id: from-file, linger_ms: 7}\n")
    monkeypatch.setenv("ALIGN_KAFKA__GROUP_ID", "from-environment")
    monkeypatch.setenv("ALIGN_KAFKA__CLIENT_ID", "from-environment")
    settings = load({"kafka.group_id": "from-flag"}, file)
    assert (settings.kafka.group_id, settings.kafka.client_id) == ("from-flag", "from-environment")
    assert settings.kafka.linger_ms == 7


def test_the_file_can_be_named_by_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "worker.yaml"
    file.write_text("topics: {items: catalogue}\n")
    monkeypatch.setenv("ALIGN_CONFIG", str(file))
    assert load().topics.items == "catalogue"


def test_lists_are_written_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_BATCH__PADDED_SIZES", "64, 512")
    assert load({"roles": "items"}).batch.padded_sizes == (64, 512)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"ALIGN_KAFKA__GROUPID": "a"}, "ALIGN_KAFKA__GROUPID: no such setting; did you mean ALIGN_KAFKA__GROUP_ID?"),
        ({"ALIGN_TOPIC__ITEMS": "a"}, "did you mean ALIGN_TOPICS__ITEMS?"),
        ({"ALIGN_BATCH__MAX_RECORDS": "0"}, "batch.max_records (ALIGN_BATCH__MAX_RECORDS): Input should be greater"),
        ({"ALIGN_BATCH__MAX_RECORDS": "many"}, "batch.max_records (ALIGN_BATCH__MAX_RECORDS)"),
        ({"ALIGN_ROLES": "user"}, "roles (ALIGN_ROLES)"),
        ({"ALIGN_DELIVERY": "at_most_once"}, "delivery (ALIGN_DELIVERY)"),
        (
            {"ALIGN_DELIVERY": "exactly_once", "ALIGN_TRANSACTION__TIMEOUT_MS": "15000"},
            "transaction.timeout_ms must exceed kafka.delivery_timeout_ms",
        ),
        (
            {"ALIGN_DELIVERY": "exactly_once", "ALIGN_SHUTDOWN__REVOKE_TIMEOUT_S": "0.1"},
            "transaction.interval_ms must be at most half of shutdown.revoke_timeout_s",
        ),
        ({"ALIGN_KAFKA__SASL_MECHANISM": "PLAIN"}, "kafka.sasl_mechanism needs kafka.security_protocol"),
        ({"ALIGN_KAFKA__SECURITY_PROTOCOL": "SASL_SSL"}, "kafka.sasl_mechanism is required"),
        ({"ALIGN_KAFKA__SSL_CAFILE": "/no/such/file"}, "kafka.ssl_cafile: no such file: /no/such/file"),
        ({"ALIGN_KAFKA__HEARTBEAT_INTERVAL_MS": "20000"}, "kafka.heartbeat_interval_ms must be at most a third"),
        ({"ALIGN_KAFKA__DELIVERY_TIMEOUT_MS": "40000"}, "kafka.delivery_timeout_ms must be at most half"),
        (
            {"ALIGN_KAFKA__FETCH_MAX_WAIT_MS": "8000"},
            "kafka.request_timeout_ms must exceed kafka.fetch_max_wait_ms",
        ),
        (
            {"ALIGN_KAFKA__MAX_POLL_INTERVAL_MS": "8000"},
            "kafka.max_poll_interval_ms must exceed kafka.request_timeout_ms",
        ),
        (
            {"ALIGN_KAFKA__LEAVE_GROUP": "false", "ALIGN_KAFKA__REMEMBER_MEMBER": "false"},
            "kafka.leave_group=false needs kafka.group_instance_id or kafka.remember_member",
        ),
        ({"ALIGN_KAFKA__GROUP_INSTANCE_ID": "pod 1"}, "kafka.group_instance_id (ALIGN_KAFKA__GROUP_INSTANCE_ID)"),
        ({"ALIGN_WATCHDOG__GROUP_UNSTABLE_S": "60"}, "watchdog.group_unstable_s=60 must exceed kafka.session_timeout"),
        (
            {"ALIGN_WATCHDOG__GROUP_UNSTABLE_S": "30", "ALIGN_KAFKA__SESSION_TIMEOUT_MS": "45000"},
            "kafka.session_timeout_ms + kafka.max_poll_interval_ms (75 s)",
        ),
        ({"ALIGN_KAFKA__SESSION_TIMEOUT_MS": "90000"}, "watchdog.group_unstable_s=120 must exceed"),
        ({"ALIGN_WATCHDOG__STALLED_S": "13"}, "watchdog.stalled_s=13 must exceed kafka.request_timeout_ms by 5 s"),
        (
            {"ALIGN_SHUTDOWN__REVOKE_TIMEOUT_S": "30"},
            "shutdown.revoke_timeout_s=30 must be below kafka.session_timeout_ms",
        ),
        (
            {"ALIGN_SHUTDOWN__DRAIN_TIMEOUT_S": "30"},
            "shutdown.drain_timeout_s=30 must be below kafka.max_poll_interval_ms",
        ),
        (
            {"ALIGN_DELIVERY": "exactly_once", "ALIGN_TRANSACTION__TIMEOUT_MS": "60001"},
            "transaction.timeout_ms=60001 must be at most kafka.session_timeout_ms + kafka.max_poll_interval_ms",
        ),
        ({"ALIGN_TOPICS__ITEMS": "events"}, "events is used for more than one topic"),
        ({"ALIGN_DEVICE": "gpu"}, "device (ALIGN_DEVICE)"),
        ({"ALIGN_BATCH__PADDED_SIZES": "512,64"}, "batch.padded_sizes must rise"),
        ({"ALIGN_HTTP__ALLOWED_HOSTS": "a.example,http://b"}, "'http://b' is no host name"),
        ({"ALIGN_HTTP__ALLOWED_HOSTS": "a.example:9464"}, "http.allowed_hosts (ALIGN_HTTP__ALLOWED_HOSTS)"),
        ({"ALIGN_BATCH__PADDED_SIZES": "0,512"}, "batch.padded_sizes"),
        ({"ALIGN_BATCH__PADDED_SIZES": "1000000000"}, "batch.padded_sizes"),
        (
            {"ALIGN_RELAY__ITEMS__TOPIC": "a b"},
            "relay.items.topic (ALIGN_RELAY__ITEMS__TOPIC): 'a b' cannot be the name",
        ),
        ({"ALIGN_RELAY__EVENTS__TOPIC": "t" * 250}, "relay.events.topic"),
        ({"ALIGN_ENCODE__DIMS": "text=0"}, "encode.dims"),
        ({"ALIGN_THREADS": "100000"}, "threads"),
        ({"ALIGN_LIMITS__MAX_FUTURE_S": "inf"}, "limits.max_future_s (ALIGN_LIMITS__MAX_FUTURE_S)"),
        ({"ALIGN_LIMITS__MAX_FUTURE_S": "1e300"}, "limits.max_future_s (ALIGN_LIMITS__MAX_FUTURE_S)"),
        ({"ALIGN_COMMIT__INTERVAL_MS": "2147483648"}, "must be at most 2147483647"),
        ({"ALIGN_KAFKA__FETCH_MAX_BYTES": "2147483648"}, "kafka.fetch_max_bytes"),
        ({"ALIGN_KAFKA__GROUP_ID": "g" * 40_000}, "kafka.group_id (ALIGN_KAFKA__GROUP_ID)"),
        ({"ALIGN_KAFKA__API_VERSION": "0,8"}, "must be 2,1 or newer"),
        (
            {"ALIGN_KAFKA__API_VERSION": "2"},
            "kafka.api_version (ALIGN_KAFKA__API_VERSION): must be two numbers, as 2,3",
        ),
        ({"ALIGN_CONFIG": "/no/such/file.yaml"}, "cannot read the configuration file /no/such/file.yaml"),
    ],
)
def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, environment: dict[str, Any], message: str) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as raised:
        load()
    assert message in raised.value.one_line()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kafka: {grup: a}", "line 1): no such setting; did you mean kafka.group_id?"),
        ("kafka: [a]", "kafka"),
        ("- a", "must hold settings"),
        ("kafka: {", "is not YAML"),
    ],
)
def test_a_wrong_file_is_explained(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "worker.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load(file=file)
    assert message in raised.value.one_line()


def test_no_number_is_infinite_or_beyond_all_clocks_and_clients() -> None:
    numbers = [name for name in setting_names() if isinstance(plain(name), int | float)]
    assert len(numbers) > 50
    for name in numbers:
        for value in ("inf", "nan", "1e300", "9" * 30):
            with pytest.raises(ConfigError, match=rf"^{re.escape(name)} "):
                load({name: value})


def plain(name: str) -> Any:
    value: Any = load()
    for part in name.split("."):
        value = getattr(value, part)
    return None if isinstance(value, bool) else value


def test_an_empty_list_of_sizes_is_refused_like_any_other(tmp_path: Path) -> None:
    file = tmp_path / "worker.yaml"
    file.write_text("batch: {padded_sizes: []}")
    with pytest.raises(ConfigError, match=r"batch\.padded_sizes must rise"):
        load(file=file)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sink.url", "postgresql://me:hunter2@host/database"),
        ("sink.url", "postgresql://me@host/database?password=hunter2"),
        ("sink.url", "http://me:hunter2@host:6333"),
        ("encode.fetch.s3_endpoint", "https://me:hunter2@host/"),
        ("encode.encoders", "text=openai+http://me:hunter2@host/v1#model"),
        ("encode.encoders", "text=openai+http://host/v1?api_key=hunter2#model"),
    ],
)
def test_an_address_with_a_password_in_it_is_refused_and_not_shown(name: str, value: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load({name: value})
    assert raised.value.one_line().startswith(f"{name} (--{name}): there is a password in it")
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sink.url", "postgresql://me@host:5432/database"),
        ("sink.url", "./milvus.db"),
        ("encode.encoders", "text=openai+http://host:8080/v1#org/model@video"),
        ("encode.fetch.s3_endpoint", "http://host:9000/base"),
    ],
)
def test_an_address_without_one_is_taken(name: str, value: str) -> None:
    load({name: value})


def test_secrets_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_KAFKA__SECURITY_PROTOCOL", "SASL_PLAINTEXT")
    monkeypatch.setenv("ALIGN_KAFKA__SASL_MECHANISM", "PLAIN")
    monkeypatch.setenv("ALIGN_KAFKA__SASL_USERNAME", "me")
    monkeypatch.setenv("ALIGN_KAFKA__SASL_PASSWORD", "hunter2")
    settings = load()
    assert "hunter2" not in json.dumps(redacted(settings)) + repr(settings)
    assert settings.kafka.sasl_password.get_secret_value() == "hunter2"
    monkeypatch.setenv("ALIGN_KAFKA__SASL_MECHANISM", "hunter2")
    with pytest.raises(ConfigError) as raised:
        load()
    assert "hunter2" not in str(raised.value)


def signed_in(**more: Any) -> Any:
    return {
        "kafka.security_protocol": "SASL_PLAINTEXT", "kafka.sasl_mechanism": "PLAIN", "kafka.sasl_username": "me",
        **more,
    }  # fmt: skip


def with_secret(name: Any, value: Any) -> Any:
    """Flags with which a secret setting is allowed."""
    return signed_in(**{"kafka.sasl_password": "x", name: value} if name != "kafka.sasl_password" else {name: value})


def every_secret(model: Any = Settings, prefix: Any = "") -> Iterator[Any]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from every_secret(field.annotation, f"{prefix}{name}.")
        elif "SecretStr" in str(field.annotation):
            yield prefix + name


SECRETS = tuple(every_secret())


def read(settings: Any, name: Any) -> Any:
    value = settings
    for part in name.split("."):
        value = getattr(value, part)
    return value.get_secret_value()


def test_the_secrets_there_are() -> None:
    assert {"kafka.sasl_password", "kafka.ssl_key_password"} <= set(SECRETS)
    assert {f"{name}_file" for name in SECRETS} <= set(setting_names())


def from_file(name: Any, path: Any) -> Any:
    flags = with_secret(name, "x")
    del flags[name]
    return {**flags, f"{name}_file": str(path)}


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize(
    ("content", "secret"),
    [
        (b"hunter2", "hunter2"),
        (b"hunter2\n", "hunter2"),
        (b"hunter2\r\n", "hunter2"),
        (b"\xef\xbb\xbfhunter2\n", "hunter2"),
        (b" hunter 2 \n", " hunter 2 "),
        ("pässwörd\n".encode(), "pässwörd"),
    ],
)
def test_every_secret_can_come_from_a_file(tmp_path: Path, name: str, content: bytes, secret: str) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content)
    settings = load(from_file(name, file))
    assert read(settings, name) == secret
    shown = json.dumps(redacted(settings), ensure_ascii=False) + repr(settings)
    assert secret.strip() not in shown
    assert str(file) in shown


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_given_twice_is_an_error_that_names_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    file = tmp_path / "secret"
    file.write_text("hunter2")
    monkeypatch.setenv(variable(name), "hunter3")
    with pytest.raises(ConfigError) as raised:
        load(from_file(name, file))
    line = raised.value.one_line()
    assert line.startswith(f"{name} and {name}_file are both set")
    assert "hunter" not in line


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "is not a file"),
        (lambda path: os.mkfifo(path), "is not a file"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_bytes(b"\n"), "is empty"),
        (lambda path: path.write_bytes(b"hunter2\xff"), "is not text in UTF-8"),
        (lambda path: path.write_bytes(b"hunter2" * 10_000), "has more than 65536 bytes"),
        (lambda path: path.symlink_to(path), "secret"),
    ],
)
def test_a_secret_file_that_cannot_be_read_is_one_line_that_names_the_setting(
    tmp_path: Path, name: str, make: Callable[..., Any], problem: str
) -> None:
    make(tmp_path / "secret")
    with pytest.raises(ConfigError) as raised:
        load(from_file(name, tmp_path / "secret"))
    line = raised.value.one_line()
    assert line.startswith(f"{name}_file: ")
    assert problem in line
    assert str(tmp_path / "secret") in line
    assert "hunter2" not in line
    assert "\n" not in line


def test_a_secret_file_without_the_right_to_it_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "secret"
    file.write_text("hunter2")

    def refused(self: Path, *arguments: Any) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(type(file), "open", refused)  # root may read everything
    with pytest.raises(ConfigError, match=r"kafka\.sasl_password_file: cannot read .*secret: Permission denied"):
        load(signed_in(**{"kafka.sasl_password_file": str(file)}))


def test_what_config_prints_of_secret_files_can_be_loaded_again(tmp_path: Path) -> None:
    import yaml

    (tmp_path / "secret").write_text("hunter2\n")
    settings = load(signed_in(**{"kafka.sasl_password_file": str(tmp_path / "secret")}))
    (tmp_path / "worker.yaml").write_text(yaml.safe_dump(redacted(settings)))
    assert load(file=tmp_path / "worker.yaml") == settings


def test_a_log_in_without_any_password_names_both_ways() -> None:
    with pytest.raises(ConfigError, match=r"kafka\.sasl_password, or kafka\.sasl_password_file"):
        load(signed_in())


def test_what_config_prints_can_be_loaded_again(tmp_path: Path) -> None:
    import yaml

    file = tmp_path / "worker.yaml"
    settings = load({"kafka.group_id": "g", "batch.padded_sizes": "8,512"})
    file.write_text(yaml.safe_dump(redacted(settings)))
    assert load(file=file) == settings


def test_variables_follow_names() -> None:
    assert variable("kafka.group_id") == "ALIGN_KAFKA__GROUP_ID"


def test_a_slow_file_cannot_pass_for_a_stalled_worker() -> None:
    slow = {"encode.decode_timeout_s": "40", "encode.encoders": "text=builtin-text"}
    with pytest.raises(ConfigError, match=r"watchdog\.stalled_s must exceed .* encode\.decode_timeout_s by 30 s"):
        load(slow)
    assert load({**slow, "watchdog.stalled_s": "80"}).encode.decode_timeout_s == 40
    with pytest.raises(ConfigError, match=r"watchdog\.stalled_s"):
        load({"encode.fetch.timeout_s": "60", "encode.encoders": "text=builtin-text"})


def test_the_settings_as_shipped_leave_a_rebalance_its_time() -> None:
    """It waits for a dead member until its session ends, and then for the slowest of the others."""
    settings = load()
    kafka = settings.kafka
    assert settings.watchdog.group_unstable_s * 1000 > kafka.session_timeout_ms + kafka.max_poll_interval_ms
    assert settings.watchdog.group_unstable_s > kafka.longest_rebalance_s


@pytest.mark.parametrize(
    ("given", "leaves"),
    [
        ({}, True),
        ({"kafka.group_instance_id": "pod-1"}, False),
        ({"kafka.group_instance_id": "pod-1", "kafka.leave_group": "true"}, True),
        ({"kafka.leave_group": "false"}, False),
    ],
)
def test_a_member_leaves_unless_its_name_comes_back(given: dict[str, Any], leaves: bool) -> None:
    assert load(given).kafka.leaves_group is leaves
