"""The rules ask for metrics that the worker has, fire when they should, and lead to a page that says what to do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.contract.deploy.artefacts import (
    COMPONENTS,
    DEPLOY,
    RULES,
    RUNBOOK,
    Document,
    base_deployment,
    document,
    kustomized_by_kubectl,
    promtool,
    rendered,
    run,
    target_with,
    the,
)
from tests.contract.deploy.prometheus_rule import TARGET, wrapped
from tests.contract.deploy.queries import Samples, check_query, recorded_series, rules

RULES_TEST = RULES.with_name("rules_test.yaml")
SCRAPE_CONFIG = RULES.with_name("prometheus.yaml")


def alerts() -> list[Document]:
    return [rule for rule in rules() if "alert" in rule]


# ---------------------------------------------------------------------- queries


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_rules_ask_for_series_that_there_are(rule: Document, samples: Samples) -> None:
    check_query(rule["expr"], samples)


@pytest.mark.parametrize(
    "expression",
    [
        "rate(align_records_eaten_total[5m])",
        'rate(align_rebalances_total{event="joined"}[5m])',
        'rate(align_freshness_seconds_bucket{le="0.9"}[5m])',
        'align_consumer_lag_records{group="g"}',
        "sum by (consumer) (align_consumer_lag_records)",
    ],
)
def test_a_series_that_there_is_not_would_be_noticed(expression: str, samples: Samples) -> None:
    with pytest.raises(AssertionError, match=r"no metric|no series|no label"):
        check_query(expression, samples)


def test_recording_rules_are_named_after_what_they_keep() -> None:
    for name, kept in recorded_series().items():
        level, metric, _ = name.split(":")
        assert set(level.split("_")) == kept
        assert metric.startswith("align_")


# ---------------------------------------------------------------------- alerts

NAMES = {
    "AlignNoWorkers", "AlignNoUserWorkers", "AlignWorkerStalled", "AlignPartitionStuck", "AlignFreshnessHigh",
    "AlignLagGrowing",
    "AlignDeadLetters", "AlignDeadLetterFailing", "AlignRebalancing", "AlignSpaceMismatch", "AlignOutOfMemory",
    "AlignAccountingBroken", "AlignWaitingOverflow", "AlignForeignVectors",
    "AlignMixedDtypes", "AlignEventsUnused", "AlignWorkerDown", "AlignRestarting",
    "AlignCutOff", "AlignPartitionUnowned", "AlignAllRefused", "AlignNothingNew", "AlignContentFailing",
    "AlignPartitionsStopped", "AlignRestoringLong", "AlignWatchdog",
    "AlignVectorsShifted", "AlignVectorsCollapsed", "AlignUsersMisaligned",
    "AlignNoSink", "AlignNoRelay", "AlignSinkBlocked", "AlignSinkFailing", "AlignEncoderDown", "AlignEncoderFailing",
    "AlignRecordsExpired", "AlignNewLog", "AlignKeysAstray", "AlignUnreadable",
}  # fmt: skip


def test_the_alerts_there_are() -> None:
    assert [rule["alert"] for rule in alerts()] == list(dict.fromkeys(rule["alert"] for rule in alerts()))
    assert {rule["alert"] for rule in alerts()} == NAMES


def anchor(heading: str) -> str:
    """The id that a Markdown renderer gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(markdown: str) -> set[str]:
    return {anchor(heading) for heading in re.findall(r"^#+ (.+)$", markdown, re.MULTILINE)}


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_alerts_say_what_is_wrong_and_where_to_read_on(rule: Document) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert all(text.endswith(".") for name, text in rule["annotations"].items() if name != "runbook_url")
    path, _, named = rule["annotations"]["runbook_url"].partition("#")
    assert DEPLOY.parent / path == RUNBOOK
    assert named == anchor(rule["alert"])
    assert named in anchors(RUNBOOK.read_text())


def test_the_runbook_explains_no_alert_that_there_is_not() -> None:
    explained = set(re.findall(r"^#+ (Align\w+)$", RUNBOOK.read_text(), re.MULTILINE))
    assert explained == NAMES


def job_of(name: str) -> str:
    (rule,) = [each for each in alerts() if each["alert"] == name]
    (job,) = set(re.findall(r'job="([^"]+)"', rule["expr"]))
    return str(job)


def test_the_job_is_the_one_that_the_monitors_give() -> None:
    job = job_of("AlignNoWorkers")
    label = document(COMPONENTS / "monitoring" / "podmonitor.yaml")["spec"]["jobLabel"]
    assert base_deployment()["spec"]["template"]["metadata"]["labels"][label] == job
    users = the("Deployment", rendered("overlays/users"))["spec"]["template"]["metadata"]["labels"]
    assert users[label] == job_of("AlignNoUserWorkers")
    for target, alert in (("overlays/sink", "AlignNoSink"), ("overlays/relay", "AlignNoRelay")):
        labels = the("Deployment", rendered(target))["spec"]["template"]["metadata"]["labels"]
        assert labels[label] == job_of(alert)
    (scraped,) = document(SCRAPE_CONFIG)["scrape_configs"]
    assert scraped["job_name"] == job


def test_the_links_of_alerts_are_made_absolute_in_one_place(tmp_path: Path) -> None:
    """As people copy the overlay and put their address into it."""
    target_with(tmp_path, "overlays/full")
    (copied,) = tmp_path.iterdir()
    mine = copied.rename(tmp_path / "mine")
    place = mine / "runbook.yaml"
    place.write_text(place.read_text().replace("url: deploy/runbook.md", "url: https://wiki.example.com/align"))
    found = the("PrometheusRule", kustomized_by_kubectl(mine))
    links = [
        rule["annotations"]["runbook_url"]
        for group in found["spec"]["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]
    assert links == [f"https://wiki.example.com/align#{anchor(rule['alert'])}" for rule in alerts()]


def test_the_links_of_alerts_stay_as_they_are_where_nobody_says_where_the_runbook_is() -> None:
    rendered_rules = the("PrometheusRule", rendered("overlays/full"))
    assert rendered_rules["spec"]["groups"] == document(RULES)["groups"]
    assert [each for each in rendered("overlays/full") if each["metadata"]["name"] == "align-worker-runbook"] == []


# ---------------------------------------------------------------------- files


def test_the_cluster_gets_the_same_rules() -> None:
    assert TARGET.read_text() == wrapped(RULES.read_text()), "run: python -m tests.contract.deploy.prometheus_rule"
    assert document(TARGET)["spec"]["groups"] == document(RULES)["groups"]


def test_prometheus_reads_the_rules() -> None:
    assert run(promtool(), "check", "rules", "--lint=all", "--lint-fatal", RULES)[0] == 0


def test_prometheus_reads_its_configuration() -> None:
    code, said = run(promtool(), "check", "config", SCRAPE_CONFIG)
    assert code == 0, said
    assert "1 rule files found" in said


def test_alerts_fire_when_they_should() -> None:
    code, said = run(promtool(), "test", "rules", RULES_TEST)
    assert code == 0, said


def test_every_alert_is_tested_to_fire() -> None:
    tested = {
        case["alertname"]
        for test in document(RULES_TEST)["tests"]
        for case in test.get("alert_rule_test", [])
        if case.get("exp_alerts")
    }
    assert tested == NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_the_rule_tests_would_notice_a_rule_that_never_fires(name: str, tmp_path: Path) -> None:
    changed = yaml.safe_load(RULES.read_text())
    for group in changed["groups"]:
        for rule in group["rules"]:
            if rule.get("alert") == name:
                rule["expr"] = f"({rule['expr']}) and vector(0) > 1"
    (tmp_path / RULES.name).write_text(yaml.safe_dump(changed))
    tests = yaml.safe_load(RULES_TEST.read_text())
    of_it = [
        test for test in tests["tests"] if any(case["alertname"] == name for case in test.get("alert_rule_test", ()))
    ]
    (tmp_path / RULES_TEST.name).write_text(yaml.safe_dump({**tests, "tests": of_it}))
    code, said = run(promtool(), "test", "rules", tmp_path / RULES_TEST.name)
    assert code != 0
    assert name in said
