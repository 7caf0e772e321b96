"""The runbook's change of the space, done with its own commands and manifests on a real Kafka, which makes no topic by
itself: nothing that a step needs may be missing."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from schemas import ItemVector, UserVector, decode, encode
from tests.brokers import Outgoing, RealKafka, produce, read_topic
from tests.contract.deploy.artefacts import (
    DEPLOY,
    MANUAL,
    Document,
    container,
    rendered,
    target_with,
    the,
    with_components,
)
from tests.worker_process import WorkerProcess
from worker.align.command import create
from worker.settings import CONFIG_FILE_VARIABLE
from worker.synthetic import MODALITIES, Audience, Catalogue

NUM_ITEMS, NUM_EVENTS, NUM_PARTITIONS = 30, 60, 2
END_MS = 1_700_000_000_000
STEPS = MANUAL.read_text().partition("## Change the space\n")[2].partition("\n## ")[0]

pytestmark = [pytest.mark.real_kafka, pytest.mark.acceptance]


def printed_command(beginning: str) -> list[str]:
    """A command of the steps, as somebody would paste it."""
    (found,) = re.findall(rf"^ +({re.escape(beginning)}(?:.*\\\n)*.*)$", STEPS, re.MULTILINE)
    return shlex.split(found.replace("\\\n", " "))


class Place:
    """A Kafka and a volume with both spaces, as the steps find them."""

    def __init__(self, kafka: RealKafka, directory: Path) -> None:
        self.options: Mapping[str, Any] = {"bootstrap_servers": kafka.bootstrap_servers}
        self.directory = directory
        self.space_ids = {
            name: create(directory / "space" / name, MODALITIES, 32, seed=seed).space_id
            for seed, name in enumerate(("current", "next"))
        }

    def align_worker(self, environment: Mapping[str, str], *words: str) -> str:
        """Run a command to its end; what it printed. Brokers and volume are ours, whatever the words say."""
        arguments = [self.options["bootstrap_servers"] if word == "broker:9092" else word for word in words]
        chosen = {"kafka.bootstrap_servers": self.options["bootstrap_servers"], **environment}
        with WorkerProcess(chosen, command=arguments) as process:
            assert process.wait(120.0) == 0, process.stderr
        return process.stdout

    def work(self, resources: tuple[Document, ...], roles: str | None = None) -> None:
        """Have the worker of a rendered overlay do all there is to do."""
        (config,) = [each["data"]["worker.yaml"] for each in resources if each["kind"] == "ConfigMap"]
        settings = yaml.safe_load(config)
        settings["kafka"].pop("bootstrap_servers")
        file = self.directory / "worker.yaml"
        file.write_text(yaml.safe_dump({**settings, "space": {"path": self._on_volume(settings["space"]["path"])}}))
        environment = {
            each["name"]: self._on_volume(each["value"])
            for each in container(the("Deployment", resources))["env"]
            if "value" in each
        }
        environment[CONFIG_FILE_VARIABLE] = str(file)
        if roles:
            environment["ALIGN_ROLES"] = roles
        self.align_worker(environment, "run", "--until-caught-up")

    def _on_volume(self, value: str) -> str:
        return f"{self.directory}{value}" if value.startswith("/space/") else value

    def values(self, topic: str) -> list[bytes]:
        return [record.value for record in read_topic(self.options, topic) if record.value is not None]

    def keys(self, topic: str) -> set[bytes]:
        return {record.key for record in read_topic(self.options, topic)}


@pytest.fixture
def place(start_kafka: Callable[..., RealKafka], tmp_path: Path) -> Place:
    """The topics of the first deployments, with items, and events with them."""
    place = Place(start_kafka(), tmp_path)
    place.align_worker(
        {}, "topics", "create", "--roles", "items,users", "--partitions", str(NUM_PARTITIONS), "--replication", "1"
    )
    catalogue = Catalogue(0)
    items = list(catalogue.items(NUM_ITEMS))
    events = Audience(catalogue, 10, 0, END_MS - 86_400_000).events(items, NUM_EVENTS, END_MS)
    messages = [("items", item.message(1, END_MS)) for item in items]
    messages += [("events", event.message()) for event in events]
    produce(place.options, [Outgoing(topic, message.key, encode(message)) for topic, message in messages])
    return place


def test_the_steps_lead_to_the_next_space_and_back_to_one_deployment(place: Place, tmp_path: Path) -> None:
    place.work(rendered("base"))
    place.work(rendered("overlays/users"))
    before = {topic: place.values(topic) for topic in ("item-vectors", "item-state", "user-vectors", "user-state")}
    assert {decode(ItemVector, value).space_id for value in before["item-vectors"]} == {place.space_ids["current"]}

    program, *words = printed_command("align-worker topics create")
    assert program == "align-worker"
    said = place.align_worker({}, *words, "--replication", "1")
    assert said.startswith("created ")
    assert said.count("-next") == 5

    place.work(rendered("overlays/next-space"))
    place.work(rendered("overlays/next-space-users"))
    assert {topic: place.values(topic) for topic in before} == before  # nothing of the first deployments is touched
    items, users = place.values("item-vectors-next"), place.values("user-vectors-next")
    assert {decode(ItemVector, value).space_id for value in items} == {place.space_ids["next"]}
    assert {decode(UserVector, value).space_id for value in users} == {place.space_ids["next"]}
    assert place.keys("item-vectors-next") == place.keys("item-vectors")
    assert place.keys("user-vectors-next") == place.keys("user-vectors")

    assert "components/next-space" in STEPS
    place.work(with_components(tmp_path, "next-space"))
    place.work(target_with(tmp_path, "overlays/users", "next-space"))
    assert (place.values("item-vectors-next"), place.values("user-vectors-next")) == (items, users)  # nothing twice


def test_one_deployment_of_both_roles_changes_in_the_same_way(place: Place, tmp_path: Path) -> None:
    _, *words = printed_command("align-worker topics create")
    place.work(rendered("base"), "items,users")
    place.align_worker({}, *words, "--replication", "1")
    place.work(rendered("overlays/next-space"), "items,users")
    items, users = place.values("item-vectors-next"), place.values("user-vectors-next")
    assert {decode(UserVector, value).space_id for value in users} == {place.space_ids["next"]}
    place.work(with_components(tmp_path, "next-space"), "items,users")
    assert (place.values("item-vectors-next"), place.values("user-vectors-next")) == (items, users)


def test_the_new_space_is_checked_where_the_next_workers_look_for_it() -> None:
    worker = container(the("Deployment", rendered("overlays/next-space")))
    (path,) = [each["value"] for each in worker["env"] if each["name"] == "ALIGN_SPACE__PATH"]
    assert f"kubectl cp ./my-next-space align-space-loader:{path}" in STEPS
    assert f"align-worker space check {path}" in STEPS


@pytest.mark.parametrize("path", sorted(set(re.findall(r"(?:deploy/|`)([a-z-]+[/a-z-]*(?:\.yaml|/[a-z-]+))\b", STEPS))))
def test_the_files_of_the_steps_are_there(path: str) -> None:
    assert (DEPLOY / path).exists() or path.startswith("scaledobject")
