"""compose.yaml: valid, and its services fit together."""

from __future__ import annotations

import base64
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.contract.deploy import dashboard
from tests.contract.deploy.artefacts import (
    COMPONENTS,
    COMPOSE,
    DEPLOY,
    DOCKERFILE,
    ROOT,
    Document,
    base_deployment,
    document,
    pod_spec,
    run,
)
from worker import __version__
from worker.commands.cli import parser
from worker.settings import Settings
from worker.synthetic import MODALITIES

SERVICES: Document = document(COMPOSE)["services"]
KAFKA: Document = SERVICES["kafka"]["environment"]


def schema_check(path: Path) -> tuple[int, str]:
    return run(sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", path)


def test_it_obeys_the_compose_specification() -> None:
    code, said = schema_check(COMPOSE)
    assert code == 0, said


def test_a_misspelt_key_would_be_noticed(tmp_path: Path) -> None:
    broken = tmp_path / "compose.yaml"
    broken.write_text(COMPOSE.read_text().replace("stop_grace_period", "stop_grace_time"))
    code, said = schema_check(broken)
    assert code != 0
    assert "stop_grace_time" in said


@pytest.mark.parametrize("name", SERVICES)
def test_images_have_literal_tags(name: str) -> None:
    _, _, tag = SERVICES[name]["image"].rpartition(":")
    assert re.fullmatch(r"v?\d+\.\d+\.\d+(-pg\d+)?", tag)


def test_the_worker_is_built_from_this_repository() -> None:
    for name in ("worker", "topics", "space"):
        assert SERVICES[name]["image"] == f"align-worker:{__version__}"
        context = DEPLOY / SERVICES[name]["build"]["context"]
        assert context.resolve() == ROOT
        assert context / SERVICES[name]["build"]["dockerfile"] == DEPLOY / ".." / "deploy" / "Dockerfile"
        args = re.findall(r"^ARG (\w+)", DOCKERFILE.read_text(), re.MULTILINE)
        assert set(SERVICES[name]["build"]["args"]) <= set(args)


def test_the_worker_has_as_little_as_it_needs() -> None:
    for name in ("worker", "topics", "space"):
        assert SERVICES[name]["read_only"] is True
        assert SERVICES[name]["cap_drop"] == ["ALL"]
        assert SERVICES[name]["tmpfs"] == ["/tmp"]


def test_it_has_as_long_to_drain_as_in_a_cluster() -> None:
    seconds = int(SERVICES["worker"]["stop_grace_period"].removesuffix("s"))
    assert seconds >= pod_spec(base_deployment())["terminationGracePeriodSeconds"]


def test_nothing_is_reachable_from_other_machines() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(published) == 5
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_files_it_mounts_are_there() -> None:
    mounted = [volume for service in SERVICES.values() for volume in service.get("volumes", [])]
    files = [DEPLOY / volume.split(":")[0] for volume in mounted if volume.startswith(".")]
    assert len(files) == 5
    assert all(path.is_file() for path in files)
    volumes = {volume.split(":")[0] for volume in mounted if not volume.startswith(".")}
    assert volumes == set(document(COMPOSE)["volumes"])


# ---------------------------------------------------------------------- Kafka


def test_the_broker_is_where_the_worker_looks() -> None:
    advertised = dict(each.split("://") for each in KAFKA["KAFKA_ADVERTISED_LISTENERS"].split(","))
    bootstrap = SERVICES["worker"]["environment"]["ALIGN_KAFKA__BOOTSTRAP_SERVERS"]
    assert advertised[KAFKA["KAFKA_INTER_BROKER_LISTENER_NAME"]] == bootstrap
    assert bootstrap.partition(":")[0] in SERVICES
    (published,) = SERVICES["kafka"]["ports"]
    assert advertised["HOST"] == f"localhost:{published.split(':')[1]}"


def test_listeners_are_complete() -> None:
    listening = dict(each.split("://:") for each in KAFKA["KAFKA_LISTENERS"].split(","))
    protocols = dict(each.split(":") for each in KAFKA["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(","))
    assert listening.keys() == protocols.keys()
    voter, _, address = KAFKA["KAFKA_CONTROLLER_QUORUM_VOTERS"].partition("@")
    assert voter == KAFKA["KAFKA_NODE_ID"]
    assert address == f"localhost:{listening[KAFKA['KAFKA_CONTROLLER_LISTENER_NAMES']]}"
    assert SERVICES["kafka"]["healthcheck"]["test"][-1] == f"localhost:{listening['CONTAINERS']}"


def test_the_cluster_id_is_one() -> None:
    text = KAFKA["CLUSTER_ID"]
    assert len(base64.urlsafe_b64decode(text + "==")) == 16
    assert not text.startswith("-")


def test_one_broker_is_enough_for_every_topic() -> None:
    replicated = {name: value for name, value in KAFKA.items() if "REPLICATION" in name or name.endswith("_ISR")}
    assert len(replicated) == 5
    assert set(replicated.values()) == {"1"}


def test_a_misspelt_topic_is_not_made() -> None:
    assert KAFKA["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"


# ---------------------------------------------------------------------- one-shot services


def test_topics_are_made_before_the_worker_starts() -> None:
    topics = SERVICES["topics"]
    arguments = parser().parse_args(topics["command"])
    assert arguments.replication == 1
    assert topics["depends_on"] == {"kafka": {"condition": "service_healthy"}}
    for name in ("topics", "space"):
        assert SERVICES["worker"]["depends_on"][name] == {"condition": "service_completed_successfully"}
        assert SERVICES[name]["restart"] == "no"
        assert SERVICES[name]["healthcheck"] == {"disable": True}


def space_scripts() -> dict[str, tuple[list[str], str]]:
    """How the demonstration space is made: (command, script) in Compose and in a cluster."""
    patch = document(COMPONENTS / "seeded-space" / "deployment.yaml")
    (container,) = pod_spec(patch)["initContainers"]
    compose = SERVICES["space"]
    return {
        "compose": (compose["entrypoint"], compose["command"][0]),
        "seeded-space": (container["command"], container["args"][0]),
    }


@pytest.mark.parametrize("name", ["compose", "seeded-space"])
def test_the_space_is_one_for_generated_items(name: str) -> None:
    command, script = space_scripts()[name]
    assert command == ["tini", "--", "sh", "-c"]
    create = script[script.index("align-worker") :].rpartition(";")[0]
    arguments = parser().parse_args(shlex.split(create)[1:])
    assert arguments.modality == [f"{modality}={dim}" for modality, dim in MODALITIES.items()]
    assert str(arguments.path) == SERVICES["worker"]["environment"]["ALIGN_SPACE__PATH"]


@pytest.fixture
def fake_worker(tmp_path: Path) -> Path:
    """A directory with an `align-worker` that only notes that it was called, and makes what `space create` makes."""
    program = tmp_path / "align-worker"
    program.write_text(f"#!/bin/sh\necho made >> {tmp_path}/calls\nmkdir {tmp_path}/current\n"
                       f"echo {{}} > {tmp_path}/current/space.json\n")  # fmt: skip
    program.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("name", ["compose", "seeded-space"])
def test_an_existing_space_stays(name: str, fake_worker: Path) -> None:
    script = space_scripts()[name][1].replace("/space/current", str(fake_worker / "current"))
    leftover = fake_worker / "current" / "weights.safetensors"  # of a start that was interrupted
    leftover.parent.mkdir()
    leftover.touch()
    for _ in range(2):
        subprocess.run(["sh", "-c", script], env={"PATH": f"{fake_worker}:/usr/bin:/bin"}, check=True)
    assert (fake_worker / "calls").read_text() == "made\n"
    assert not leftover.exists()


# ---------------------------------------------------------------------- Prometheus


def test_prometheus_scrapes_the_workers() -> None:
    config: Any = document(DEPLOY / "prometheus" / "prometheus.yaml")
    (job,) = config["scrape_configs"]
    (discovery,) = job["dns_sd_configs"]
    assert discovery["names"] == ["worker"]
    assert "worker" in SERVICES
    assert discovery["port"] == Settings().http.port
    (published,) = SERVICES["worker"]["ports"]
    assert int(published.rpartition(":")[2]) == Settings().http.port


def test_prometheus_finds_its_files_where_they_are_mounted() -> None:
    config = document(DEPLOY / "prometheus" / "prometheus.yaml")
    places = {Path(volume.split(":")[1]) for volume in SERVICES["prometheus"]["volumes"]}
    (named,) = [each.partition("=")[2] for each in SERVICES["prometheus"]["command"] if "config.file" in each]
    assert Path(named) in places
    assert {Path(named).parent / each for each in config["rule_files"]} <= places


# ---------------------------------------------------------------------- Grafana


def test_grafana_asks_prometheus_and_finds_its_dashboard() -> None:
    (source,) = document(DEPLOY / "grafana" / "datasources.yaml")["datasources"]
    name, _, port = source["url"].removeprefix("http://").partition(":")
    assert name in SERVICES
    assert SERVICES[name]["ports"] == [f"127.0.0.1:{port}:{port}"]
    places = dict(volume.split(":")[:2][::-1] for volume in SERVICES["grafana"]["volumes"])
    (provider,) = document(DEPLOY / "grafana" / "dashboards.yaml")["providers"]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert str(Path(home).parent) == provider["options"]["path"]
    assert DEPLOY / places[home] == dashboard.TARGET
    for kind in ("datasources", "dashboards"):
        assert places[f"/etc/grafana/provisioning/{kind}/align-worker.yaml"] == f"./grafana/{kind}.yaml"
