"""What the runbook tells people to type, click and read is there."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Mapping
from typing import Any, ClassVar

import kafka
import pytest

from schemas import NewItem, Reason, UserEvent, decode
from tests.contract.deploy.artefacts import (
    DEPLOY,
    MANUAL,
    RUNBOOK,
    SPACE_VOLUME,
    document,
    missing,
    rendered,
    run,
)
from tests.contract.deploy.queries import Samples, check_query
from tests.contract.deploy.test_alerts import alerts, anchors
from worker import errors
from worker.align.command import EVENT_WEIGHTS
from worker.commands.cli import parser
from worker.monitoring.watchdog import Diagnosis, Vitals
from worker.settings import WatchdogSettings
from worker.synthetic import MODALITIES

TEXT = MANUAL.read_text()
ALERTS = RUNBOOK.read_text()


def one_line(text: str) -> str:
    return " ".join(text.split())


def commands() -> list[str]:
    """Every `align-worker …` of both pages and of the manifests' comments."""
    prose = one_line(re.sub(r"```.*?```", "", TEXT + ALERTS, flags=re.DOTALL))
    quoted = re.findall(r"`(align-worker [^`]+)`", prose)
    listed = re.findall(r"^ {4}.*-- (align-worker .+)$", TEXT + ALERTS, re.MULTILINE)
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


def links() -> list[tuple[str, str, str]]:
    """Page, path and anchor of every link between the two pages and within them."""
    return [
        (page.name, path or page.name, anchor)
        for page in (MANUAL, RUNBOOK)
        for path, anchor in re.findall(r"\]\(([\w.]*)#([^)]+)\)", page.read_text())
    ]


@pytest.mark.parametrize(("page", "path", "anchor"), sorted(set(links())))
def test_links_lead_somewhere(page: str, path: str, anchor: str) -> None:
    assert anchor in anchors((DEPLOY / path).read_text())


@pytest.mark.parametrize("path", sorted(set(re.findall(r"^\| `([\w./-]+)`", TEXT, re.MULTILINE)) - {"PROMTOOL"}))
def test_files_of_the_first_table_are_there(path: str) -> None:
    if "/" in path or "." in path:
        assert (DEPLOY / path).exists()


def queries() -> list[str]:
    return [query.strip() for query in re.findall(r"```promql\n(.*?)```", TEXT + ALERTS, re.DOTALL)]


@pytest.mark.parametrize("query", queries())
def test_queries_ask_for_series_that_there_are(query: str, samples: Samples) -> None:
    check_query(query, samples)


# ---------------------------------------------------------------------- the form of each entry

PARTS = ("Meaning", "Impact", "Diagnosis", "Mitigation")
DEPLOYED = ("overlays/full", "overlays/full-users", "overlays/sink", "overlays/relay")
KUBECTL = ("get", "describe", "logs", "exec", "port-forward", "rollout", "delete", "scale", "annotate", "apply")


def entries() -> dict[str, str]:
    """What is said of each alert and of each cause of exit code 8, by its heading."""
    parts = re.split(r"^### (.+)$", ALERTS[ALERTS.index("## Alerts") :], flags=re.MULTILINE)
    return {heading: body.partition("\n## ")[0] for heading, body in zip(parts[1::2], parts[2::2], strict=True)}


@pytest.mark.parametrize("name", entries())
def test_every_entry_has_meaning_impact_diagnosis_with_commands_and_mitigation(name: str) -> None:
    body = entries()[name]
    found = re.findall(r"\*\*(\w+)\.\*\*", body)
    assert tuple(found) == PARTS
    texts = dict(zip(PARTS, re.split(r"\*\*\w+\.\*\*", body)[1:], strict=True))
    for part, text in texts.items():
        assert len(text.split()) >= 3, f"{part} says nothing"
    commands_or_queries = re.findall(r"^(?: {4}\S.*|```promql)$", texts["Diagnosis"], re.MULTILINE)
    assert commands_or_queries, "Diagnosis has nothing to type"


@pytest.mark.parametrize("name", [name for name in entries() if name.startswith("Align")])
def test_an_alerts_entry_says_how_grave_it_is_as_the_rule_does(name: str) -> None:
    (rule,) = [rule for rule in alerts() if rule["alert"] == name]
    assert entries()[name].lstrip().startswith(f"*{rule['labels']['severity'].capitalize()}.*")


def kubectl_lines() -> list[str]:
    return sorted(set(re.findall(r"^ {4}(kubectl .+)$", ALERTS, re.MULTILINE)))


@pytest.mark.parametrize("line", kubectl_lines())
def test_kubectl_is_asked_for_what_the_manifests_have(line: str) -> None:
    words = shlex.split(line)
    assert words[1] in KUBECTL
    objects = {f"{each['kind'].lower()}/{each['metadata']['name']}" for target in DEPLOYED for each in rendered(target)}
    named = {word for word in words[2:] if re.fullmatch(r"(deployment|scaledobject)/[\w-]+", word)}
    assert named <= objects, named - objects
    for label in (words[index + 1] for index, word in enumerate(words) if word == "--selector"):
        name, _, value = label.partition("=")
        found = [each["spec"]["template"]["metadata"]["labels"] for each in workloads()]
        assert any(labels.get(name) == value for labels in found), label


@pytest.mark.parametrize("line", kubectl_lines())
def test_kubectl_knows_each_command_and_flag(line: str) -> None:
    """As far as it can be asked without a cluster: its help has the flags."""
    if (path := shutil.which("kubectl")) is None:
        missing("kubectl is not on PATH")
    words = shlex.split(line.partition(" -- ")[0])
    verbs = words[1:3] if words[1] == "rollout" else words[1:2]
    code, said = run(path, *verbs, "--help")
    assert code == 0, said
    for flag in (word.partition("=")[0] for word in words if word.startswith("--")):
        assert f"{flag}=" in said, f"kubectl {' '.join(verbs)} has no {flag}"


def workloads() -> list[Mapping[str, Any]]:
    found = [each for target in DEPLOYED for each in rendered(target)]
    return [each for each in found if each["kind"] == "Deployment"]


def test_exit_code_8_has_an_entry_for_every_reason_that_the_watchdog_gives() -> None:
    settings = WatchdogSettings(stalled_s=60, group_unstable_s=30)
    headings = " ".join(entries())
    for stage in ("poll", "compute", "encode", "publish", "restore", "catalogue"):
        diagnosis = Diagnosis(settings, 99.0)
        reason = diagnosis.stalled(Vitals({stage: 0.0}, True, lambda: True), 100.0)
        assert reason is not None
        assert f'"{reason.partition(" for ")[0]}"' in headings
    diagnosis = Diagnosis(settings, 0.0)
    told = [diagnosis.stalled(Vitals({}, False, lambda: True), float(now)) for now in range(1, 100)]
    reason = next(filter(None, told))
    assert f'"{reason.partition(" for ")[0]}"' in headings


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
    exec(compile(example.replace("20_000", "70").replace("10_000", "50"), str(MANUAL), "exec"), {})
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
