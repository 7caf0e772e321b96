"""Every selector finds what it is meant for, in whichever way overlays and components are put together.

An overlay whose labels go into selectors writes its own label into every `matchLabels` there is, those that are meant
for somebody else's pods, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.contract.deploy.artefacts import (
    COMPONENT_NAMES,
    TARGETS,
    Document,
    components_of,
    of_kind,
    pod_spec,
    rendered,
    target_with,
    the,
    workers_of,
)

BROKER = {
    "app.kubernetes.io/instance": "kafka",
    "app.kubernetes.io/managed-by": "strimzi-cluster-operator",
    "app.kubernetes.io/name": "kafka",
    "app.kubernetes.io/part-of": "strimzi-kafka",
    "strimzi.io/cluster": "kafka",
    "strimzi.io/kind": "Kafka",
}
"""What Strimzi puts on the pods of brokers of a cluster named `kafka`."""
KAFKA_PORTS = {9092, 9093}


def combinations() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every target as it is, with a component that has selectors, and with all components, which go together except for
    the second autoscaler."""
    for target in TARGETS:
        others = tuple(name for name in COMPONENT_NAMES if name not in components_of(target))
        yield target, ()
        yield from ((target, (name,)) for name in others if name in ("networkpolicy", "service-monitor"))
        yield target, tuple(name for name in others if name != "hpa")


def selects(selector: Document, labels: Mapping[str, str]) -> bool:
    """Whether a label selector chooses a pod with these labels."""
    for expression in selector.get("matchExpressions", []):
        key, values = expression["key"], expression.get("values", [])
        chosen = {
            "In": labels.get(key) in values,
            "NotIn": labels.get(key) not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }
        if not chosen[expression["operator"]]:
            return False
    wanted: Mapping[str, str] = selector.get("matchLabels", {})
    return wanted.items() <= labels.items()


def own_selectors(resources: tuple[Document, ...]) -> list[Document]:
    """Those that are meant for the workers of these resources."""
    workers = workers_of(resources)
    found = [workers["spec"]["selector"]]
    found += [each["labelSelector"] for each in pod_spec(workers).get("topologySpreadConstraints", [])]
    found += [each["spec"]["selector"] for each in of_kind("PodDisruptionBudget", resources)]
    found += [each["spec"]["selector"] for each in of_kind("PodMonitor", resources)]
    found += [each["spec"]["podSelector"] for each in of_kind("NetworkPolicy", resources)]
    found += [{"matchLabels": each["spec"]["selector"]} for each in of_kind("Service", resources)]
    return found


@pytest.mark.parametrize(
    ("target", "names"),
    list(combinations()),
    ids=lambda each: each if isinstance(each, str) else "+".join(each) or "alone",
)
def test_selectors_find_what_they_are_meant_for(target: str, names: tuple[str, ...], tmp_path: Path) -> None:
    resources = target_with(tmp_path, target, *names)
    labels = workers_of(resources)["spec"]["template"]["metadata"]["labels"]
    for selector in own_selectors(resources):
        assert selects(selector, labels), f"{selector} does not find the workers"
        assert not selects(selector, BROKER)
    for policy in of_kind("NetworkPolicy", resources):
        for rule in policy["spec"]["egress"]:
            peers = [peer["podSelector"] for peer in rule.get("to", []) if "podSelector" in peer]
            assert all(selects(peer, BROKER) for peer in peers), f"{peers} does not find the brokers"
            assert bool(peers) == ({port["port"] for port in rule["ports"]} == KAFKA_PORTS)


@pytest.mark.parametrize(
    ("target", "job"),
    [("overlays/full-users", "align-worker-users"), ("overlays/relay", "align-worker-relay"),
     ("overlays/sink", "align-worker-sink"), ("overlays/next-space", "align-worker-next")],
)  # fmt: skip
def test_the_monitors_of_the_first_deployment_find_the_pods_of_the_others(
    target: str, job: str, tmp_path: Path
) -> None:
    labels = workers_of(rendered(target))["spec"]["template"]["metadata"]["labels"]
    monitor = the("PodMonitor", rendered("overlays/full"))["spec"]
    assert selects(monitor["selector"], labels)
    assert labels[monitor["jobLabel"]] == job
    service = the("Service", target_with(tmp_path, "overlays/full", "service-monitor"))
    assert selects({"matchLabels": service["spec"]["selector"]}, labels)


def test_with_the_network_policy_every_target_has_a_way_to_the_brokers(tmp_path: Path) -> None:
    for target in TARGETS:
        resources = target_with(tmp_path, target, *{"networkpolicy"} - components_of(target))
        policy = the("NetworkPolicy", resources)["spec"]
        peers = [peer["podSelector"] for rule in policy["egress"] for peer in rule.get("to", [])]
        assert [selects(peer, BROKER) for peer in peers] == [True]


@pytest.mark.parametrize(
    ("selector", "chosen"),
    [
        ({}, True),
        ({"matchLabels": {"strimzi.io/cluster": "kafka"}}, True),
        ({"matchLabels": {"strimzi.io/cluster": "kafka", "app.kubernetes.io/instance": "align-worker-users"}}, False),
        ({"matchExpressions": [{"key": "strimzi.io/cluster", "operator": "In", "values": ["kafka"]}]}, True),
        ({"matchExpressions": [{"key": "strimzi.io/cluster", "operator": "NotIn", "values": ["kafka"]}]}, False),
        ({"matchExpressions": [{"key": "strimzi.io/kind", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "strimzi.io/kind", "operator": "DoesNotExist"}]}, False),
    ],
)  # fmt: skip
def test_a_selector_that_finds_no_broker_would_be_noticed(selector: Document, chosen: bool) -> None:
    assert selects(selector, BROKER) is chosen
