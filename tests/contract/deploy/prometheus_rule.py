"""The PrometheusRule that carries prometheus/rules.yaml into a cluster, made from it.

`python -m tests.contract.deploy.prometheus_rule` writes it again after a change of the rules.
"""

from __future__ import annotations

import textwrap

from tests.contract.deploy.artefacts import COMPONENTS, RULES

TARGET = COMPONENTS / "monitoring" / "prometheusrule.yaml"
HEADER = """\
# Made from deploy/prometheus/rules.yaml by `python -m tests.contract.deploy.prometheus_rule`. Change it there.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: align-worker
  labels:
    app.kubernetes.io/name: align-worker
spec:
"""


def wrapped(rules: str) -> str:
    """The rules file's groups, one level deeper."""
    groups = rules[rules.index("groups:") :]
    return HEADER + textwrap.indent(groups, "  ", lambda line: bool(line.strip()))


if __name__ == "__main__":
    TARGET.write_text(wrapped(RULES.read_text()))
