import json

import pytest

from worker.errors import ConfigError
from worker.settings import load, redacted, setting_names, variable


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    import os

    for name in list(os.environ):
        if name.startswith("ALIGN_"):
            monkeypatch.delenv(name)


def test_the_names_that_users_script_against_exist():
    fixed = """kafka.bootstrap_servers kafka.group_id kafka.client topics.items topics.events topics.item_vectors
    topics.user_vectors topics.dead_letters space.path roles delivery batch.max_records batch.max_bytes batch.max_age_ms
    device dtype state.dir http.host http.port log.level log.format"""
    assert set(fixed.split()) <= set(setting_names())


def test_every_setting_that_is_not_its_own_explanation_is_described():
    undescribed = {name for name, description in setting_names().items() if not description}
    assert undescribed <= {
        "topics.items", "topics.events", "topics.item_vectors", "topics.user_vectors", "topics.dead_letters",
        "kafka.security_protocol", "kafka.sasl_mechanism", "kafka.sasl_username", "kafka.sasl_password",
        "kafka.ssl_cafile", "kafka.ssl_certfile", "kafka.ssl_keyfile", "kafka.ssl_key_password",
        "kafka.ssl_check_hostname", "http.host", "log.level", "log.format",
    }  # fmt: skip


def test_flags_win_over_the_environment_and_that_over_the_file(monkeypatch, tmp_path):
    file = tmp_path / "worker.yaml"
    file.write_text("kafka: {group_id: from-file, client_id: from-file, linger_ms: 7}\n")
    monkeypatch.setenv("ALIGN_KAFKA__GROUP_ID", "from-environment")
    monkeypatch.setenv("ALIGN_KAFKA__CLIENT_ID", "from-environment")
    settings = load({"kafka.group_id": "from-flag"}, file)
    assert (settings.kafka.group_id, settings.kafka.client_id) == ("from-flag", "from-environment")
    assert settings.kafka.linger_ms == 7


def test_the_file_can_be_named_by_the_environment(monkeypatch, tmp_path):
    file = tmp_path / "worker.yaml"
    file.write_text("topics: {items: catalogue}\n")
    monkeypatch.setenv("ALIGN_CONFIG", str(file))
    assert load().topics.items == "catalogue"


def test_lists_are_written_with_commas(monkeypatch):
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
        ({"ALIGN_TOPICS__ITEMS": "events"}, "events is used for more than one topic"),
        ({"ALIGN_DEVICE": "gpu"}, "device (ALIGN_DEVICE)"),
        ({"ALIGN_BATCH__PADDED_SIZES": "512,64"}, "batch.padded_sizes must rise"),
        ({"ALIGN_CONFIG": "/no/such/file.yaml"}, "cannot read the configuration file /no/such/file.yaml"),
    ],
)
def test_a_wrong_setting_is_named(monkeypatch, environment, message):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as raised:
        load()
    assert message in raised.value.one_line()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kafka: {grup: a}", "kafka.grup: no such setting; did you mean kafka.group_id?"),
        ("kafka: [a]", "kafka"),
        ("- a", "must hold settings"),
        ("kafka: {", "is not YAML"),
    ],
)
def test_a_wrong_file_is_explained(tmp_path, text, message):
    file = tmp_path / "worker.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load(file=file)
    assert message in raised.value.one_line()


def test_secrets_are_never_shown(monkeypatch):
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


def test_what_config_prints_can_be_loaded_again(tmp_path):
    import yaml

    file = tmp_path / "worker.yaml"
    settings = load({"kafka.group_id": "g", "batch.padded_sizes": "8,512"})
    file.write_text(yaml.safe_dump(redacted(settings)))
    assert load(file=file) == settings


def test_variables_follow_names():
    assert variable("kafka.group_id") == "ALIGN_KAFKA__GROUP_ID"


def test_a_slow_file_cannot_pass_for_a_stalled_worker():
    slow = {"encode.decode_timeout_s": "40", "encode.encoders": "text=builtin-text"}
    with pytest.raises(ConfigError, match=r"watchdog\.stalled_s must exceed .* encode\.decode_timeout_s by 30 s"):
        load(slow)
    assert load({**slow, "watchdog.stalled_s": "80"}).encode.decode_timeout_s == 40
    with pytest.raises(ConfigError, match=r"watchdog\.stalled_s"):
        load({"encode.fetch.timeout_s": "60", "encode.encoders": "text=builtin-text"})
