"""The dashboard is what Grafana takes, and asks for series that the worker has."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import promql_parser
import pytest

from tests.contract.deploy.artefacts import Document, of_kind, with_components
from tests.contract.deploy.dashboard import OF, TARGET, text
from tests.contract.deploy.queries import Samples, check_query

DASHBOARD: dict[str, Any] = json.loads(TARGET.read_text())
PANELS: list[dict[str, Any]] = [each for each in DASHBOARD["panels"] if each["type"] != "row"]
TARGETS = [(panel["title"], target) for panel in PANELS for target in panel["targets"]]
VARIABLES = {"$__rate_interval": "5m", "$job": "align-worker", "$instance": ".+"}


def as_prometheus_gets_it(expression: str) -> str:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    return expression


def test_the_file_is_made_from_the_list_of_panels() -> None:
    assert TARGET.read_text() == text(), "run: python -m tests.contract.deploy.dashboard"


@pytest.mark.parametrize(
    ("title", "target"), TARGETS, ids=lambda each: each if isinstance(each, str) else each["refId"]
)
def test_queries_ask_for_series_that_there_are(title: str, target: Document, samples: Samples) -> None:
    expression = as_prometheus_gets_it(target["expr"])
    assert "$" not in expression
    check_query(expression, samples)


def test_a_series_that_there_is_not_would_be_noticed(samples: Samples) -> None:
    with pytest.raises(AssertionError, match="no metric"):
        check_query(as_prometheus_gets_it(f"sum(align_nothing_total{{{OF}}})"), samples)


@pytest.mark.parametrize(
    ("title", "target"), TARGETS, ids=lambda each: each if isinstance(each, str) else each["refId"]
)
def test_every_series_is_that_of_the_chosen_workers(title: str, target: Document) -> None:
    expression = as_prometheus_gets_it(target["expr"])
    selectors: list[Any] = []
    promql_parser.walk(promql_parser.parse(expression), selectors.append)
    for node in selectors:
        selector = getattr(node, "vector_selector", node)
        if isinstance(selector, promql_parser.VectorSelector):
            assert {matcher.name for matcher in selector.matchers.matchers} >= {"job", "instance"}


def test_rates_follow_the_resolution_of_the_screen() -> None:
    ranges = [found for _, target in TARGETS for found in re.findall(r"\[(.+?)\]", target["expr"])]
    assert ranges
    assert set(ranges) == {"$__rate_interval"}


def test_legends_name_labels_that_the_query_keeps() -> None:
    for title, target in TARGETS:
        named = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        kept = {label.strip() for found in re.findall(r"by \(([^)]*)\)", target["expr"]) for label in found.split(",")}
        assert named <= kept, title


def test_every_panel_says_what_it_shows() -> None:
    for panel in PANELS:
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"]["uid"] == "${datasource}"
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    titles = [panel["title"] for panel in PANELS]
    assert len(set(titles)) == len(titles)


def test_panels_do_not_lie_on_one_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_deployments_and_workers_can_be_chosen() -> None:
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    assert variables.keys() == {"datasource", "job", "instance"}
    assert DASHBOARD["editable"] is False


def test_the_cluster_gets_the_same_dashboard(tmp_path: Path) -> None:
    (config,) = [
        each
        for each in of_kind("ConfigMap", with_components(tmp_path, "monitoring"))
        if each["metadata"].get("labels", {}).get("grafana_dashboard") == "1"
    ]
    assert config["data"] == {TARGET.name: TARGET.read_text()}
