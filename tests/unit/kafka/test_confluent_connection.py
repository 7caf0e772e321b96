"""From settings to what librdkafka is told, and one line for what it would not take."""

from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from worker.errors import ConfigError
from worker.kafka import make_client
from worker.kafka.confluent_kafka.connection import connection_config, further_properties, open_client
from worker.kafka.embedded import EmbeddedBroker
from worker.settings import KafkaSettings

OTHER = {"client": "confluent-kafka"}


@pytest.fixture
def properties(tmp_path: Path) -> Any:
    path = tmp_path / "librdkafka.properties"

    def settings(text: Any) -> Any:
        path.write_text(text)
        return KafkaSettings(**OTHER, properties_file=path)

    return settings


def test_further_properties_are_passed_on(properties: Any) -> None:
    text = "# a remark\n\nsasl.oauthbearer.client.secret = top=secret\nsasl.kerberos.service.name=kafka\n"
    found = {"sasl.oauthbearer.client.secret": "top=secret", "sasl.kerberos.service.name": "kafka"}
    assert further_properties(properties(text)) == found
    assert connection_config(properties(text)).items() >= found.items()
    assert further_properties(KafkaSettings(**OTHER)) == {}


@pytest.mark.parametrize("name", ["group.id", "enable.idempotence", "message.timeout.ms", "auto.offset.reset"])
def test_what_the_worker_relies_on_is_not_set_there(properties: Any, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"kafka\.properties_file: {name} in line 2"):
        connection_config(properties(f"client.dns.lookup=use_all_dns_ips\n{name}=x\n"))


@pytest.mark.parametrize("line", ["no separator", "= nameless"])
def test_a_line_that_is_no_property_is_named(properties: Any, line: str) -> None:
    with pytest.raises(ConfigError, match=r"line 1 of .* is not name=value"):
        connection_config(properties(line))


def test_a_property_that_the_library_does_not_know_is_one_line_without_a_secret(properties: Any) -> None:
    settings = properties("sasl.password=hidden\nno.such.property=1\n")
    with pytest.raises(ConfigError, match=r"no\.such\.property") as raised:
        open_client(AdminClient, connection_config(settings))
    assert "hidden" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"group_protocol": "consumer"}, "group_protocol=consumer"),
        ({"security_protocol": "SASL_SSL", "sasl_mechanism": "GSSAPI"}, "sasl_mechanism=GSSAPI"),
    ],
)
def test_what_only_this_client_has_is_refused_with_the_other(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"kafka.{named} needs kafka.client=confluent-kafka"):
        KafkaSettings(**changes)
    KafkaSettings(**OTHER, **changes)


def test_an_oauth_method_of_the_library_needs_no_token_file(properties: Any) -> None:
    way = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "OAUTHBEARER"}
    with pytest.raises(ValueError, match="sasl_oauth_token_file is required"):
        KafkaSettings(**OTHER, **way)
    path = properties("sasl.oauthbearer.method=oidc\n").properties_file
    config = connection_config(KafkaSettings(**OTHER, **way, properties_file=path))
    assert config["sasl.oauthbearer.method"] == "oidc"
    assert "oauth_cb" not in config


def test_a_missing_library_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "worker.kafka.confluent_kafka.client", None)
    with pytest.raises(ConfigError, match="pip install 'confluent-kafka"):
        make_client(KafkaSettings(**OTHER))


def test_the_embedded_broker_has_no_new_group_protocol() -> None:
    with EmbeddedBroker() as broker:
        own = {**broker.settings, "bootstrap_servers": broker.bootstrap_servers}
        client = make_client(KafkaSettings(**OTHER, **own, group_protocol="consumer"))
        with pytest.raises(ConfigError, match="embedded broker"):
            client.consumer("group")
