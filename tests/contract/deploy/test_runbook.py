"""What the runbook tells people to type, click and read is there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any, ClassVar

import kafka
import pytest

from schemas import NewItem, Reason, UserEvent, decode
from tests.contract.deploy.artefacts import DEPLOY, RUNBOOK, SPACE_VOLUME, document
from tests.contract.deploy.queries import Samples, check_query
from tests.contract.deploy.test_alerts import anchors
from worker import errors
from worker.align.command import EVENT_WEIGHTS
from worker.commands.cli import parser
from worker.synthetic import MODALITIES

TEXT = RUNBOOK.read_text()


def one_line(text: str) -> str:
    return " ".join(text.split())


def commands() -> list[str]:
    """Every `align-worker …` of this page and of the manifests' comments."""
    prose = one_line(re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL))
    quoted = re.findall(r"`(align-worker [^`]+)`", prose)
    listed = re.findall(r"^ {4}.*-- (align-worker .+)$", TEXT, re.MULTILINE)
    told = re.findall(r"^#.* -- (align-worker .+)$", SPACE_VOLUME.read_text(), re.MULTILINE)
    return [*quoted, *listed, *told]


def test_there_are_commands() -> None:
    assert len(commands()) >= 10


@pytest.mark.parametrize("command", commands())
def test_commands_are_ones_that_the_worker_has(command: str) -> None:
    assert callable(parser().parse_args(shlex.split(command)[1:]).function)


def test_a_command_that_there_is_not_would_be_noticed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((SystemExit, errors.ConfigError)):
        parser().parse_args(["dlq", "purge"])
    capsys.readouterr()


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(#([^)]+)\)", TEXT))))
def test_links_lead_somewhere(link: str) -> None:
    assert link in anchors(TEXT)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"^\| `([\w./-]+)`", TEXT, re.MULTILINE)) - {"PROMTOOL"}))
def test_files_of_the_first_table_are_there(path: str) -> None:
    if "/" in path or "." in path:
        assert (DEPLOY / path).exists()


def queries() -> list[str]:
    return [query.strip() for query in re.findall(r"```promql\n(.*?)```", TEXT, re.DOTALL)]


@pytest.mark.parametrize("query", queries())
def test_queries_ask_for_series_that_there_are(query: str, samples: Samples) -> None:
    check_query(query, samples)


def test_exit_codes_are_the_workers() -> None:
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", TEXT, re.MULTILINE)}
    raised = {
        kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.WorkerError)
    }
    assert listed == raised | {0, 137}


def test_every_reason_has_a_next_step() -> None:
    rows = re.findall(r"^\| ((?:`[a-z_]+`(?:, )?)+) \|", TEXT[TEXT.index("## Dead letters") :], re.MULTILINE)
    listed = [name for row in rows for name in re.findall(r"`([a-z_]+)`", row)]
    assert sorted(listed) == sorted(reason.value for reason in Reason)


class Recorder:
    """Stands in for the producer of the example."""

    sent: ClassVar[list[tuple[str, bytes, bytes]]] = []

    def __init__(self, **config: Any) -> None:
        assert config == {"bootstrap_servers": advertised_to_the_host()}

    def send(self, topic: str, key: bytes, value: bytes) -> None:
        self.sent.append((topic, key, value))

    def flush(self) -> None: ...


def advertised_to_the_host() -> str:
    environment: Mapping[str, str] = document(DEPLOY / "compose.yaml")["services"]["kafka"]["environment"]
    return dict(each.split("://") for each in environment["KAFKA_ADVERTISED_LISTENERS"].split(","))["HOST"]


def test_the_example_feeds_items_that_fit_the_space_and_events_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    monkeypatch.setattr(kafka, "KafkaProducer", Recorder)
    Recorder.sent.clear()
    exec(compile(example.replace("20_000", "70").replace("10_000", "50"), str(RUNBOOK), "exec"), {})
    items = [(key, decode(NewItem, value)) for topic, key, value in Recorder.sent if topic == "items"]
    events = [(key, decode(UserEvent, value)) for topic, key, value in Recorder.sent if topic == "events"]
    assert (len(items), len(events)) == (50, 70) == (50, len(Recorder.sent) - 50)
    for key, item in items:
        assert key == item.key
        assert {name: feature.shape[-1] for name, feature in item.features.items()}.items() <= MODALITIES.items()
    for key, event in events:
        assert key == event.key
        assert event.event_type in EVENT_WEIGHTS
    assert {event.item_id for _, event in events} <= {item.item_id for _, item in items}
    (named,) = re.findall(r"recommend --user (user-\d+)", TEXT)
    assert int(named.rpartition("-")[2]) < 500
