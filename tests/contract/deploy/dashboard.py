"""The Grafana dashboard, made from the list of its panels below.

`python -m tests.contract.deploy.dashboard` writes it again after a change.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.contract.deploy.artefacts import COMPONENTS

TARGET = COMPONENTS / "monitoring" / "dashboard" / "align-worker.json"
UID = "align-worker"
OF = 'job=~"$job", instance=~"$instance"'
"""What every query asks of a series: the chosen deployments and workers."""
WIDTH, HEIGHT, PER_ROW = 8, 8, 3


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    description: str
    unit: str
    queries: Sequence[tuple[str, str]]
    """Expression, in which OF stands for the matchers, and legend."""


def rate(metric: str, by: str, matchers: str = "OF") -> str:
    return f"sum by ({by}) (rate({metric}{{{matchers}}}[$__rate_interval]))"


def quantiles(metric: str) -> list[tuple[str, str]]:
    return [
        (f"histogram_quantile({share}, {rate(f'{metric}_bucket', 'topic, le')})", f"p{share * 100:g} {{{{topic}}}}")
        for share in (0.5, 0.95, 0.99)
    ]


def mean(metric: str, by: str) -> str:
    return f"{rate(f'{metric}_sum', by)} / {rate(f'{metric}_count', by)}"


ROWS: dict[str, Sequence[Panel]] = {
    "Work": (
        Panel("Workers", "Workers that Prometheus reaches, by deployment.", "short",
              [("sum by (job) (up{OF})", "{{job}}")]),
        Panel("Lag", "Records behind the end of the log that are not committed yet. More than a minute's work of them, "
              "and rising, is AlignLagGrowing.", "short",
              [("sum by (job, topic) (align_consumer_lag_records{OF})", "{{job}} {{topic}}")]),
        Panel("Records in and out", "Consumed, and what became of them. The two are alike but for what is in flight.",
              "ops",
              [(rate("align_records_consumed_total", "topic"), "consumed {{topic}}"),
               (rate("align_records_published_total", "topic"), "published {{topic}}"),
               (rate("align_records_superseded_total", "topic"), "superseded {{topic}}"),
               (rate("align_records_dead_lettered_total", "topic"), "dead-lettered {{topic}}")]),
        Panel("Freshness", "From the event's own time to the acknowledged vector. Rises when producers are late, too.",
              "s", quantiles("align_freshness_seconds")),
        Panel("Latency", "From the log to the acknowledged vector: the worker's own share.", "s",
              quantiles("align_end_to_end_latency_seconds")),
        Panel("Lag of partitions", "The ten that are furthest behind. One alone, and rising, is AlignPartitionStuck.",
              "short",
              [("topk(10, max by (topic, partition) (align_consumer_lag_records{OF}))", "{{topic}} {{partition}}")]),
    ),
    "Where the time goes": (
        Panel("Time of a step", "Mean time of one step of each stage.", "s",
              [(mean("align_stage_duration_seconds", "stage"), "{{stage}}")]),
        Panel("Batches", "Mean items of a micro-batch, by why it was closed.", "short",
              [(mean("align_batch_size_records", "reason"), "{{reason}}")]),
        Panel("Wait for a batch", "Age of a batch's oldest record when it is taken.", "s",
              [(mean("align_batch_wait_seconds", "job"), "{{job}}")]),
        Panel("Filling and padding", "Items of the last batch per batch.max_records, and rows computed for nothing.",
              "percentunit",
              [("avg by (job) (align_batch_fill_ratio{OF})", "filled {{job}}"),
               ("avg by (job) (align_batch_padding_ratio{OF})", "padding {{job}}")]),
        Panel("Queues", "Records that wait for the model, and that wait for the brokers' receipt.", "short",
              [("sum by (job) (align_queue_depth_records{OF})", "for the model {{job}}"),
               ("sum by (job) (align_unacknowledged_records{OF})", "for receipts {{job}}")]),
        Panel("Out of memory", "Batches that were halved because they did not fit.", "ops",
              [(rate("align_out_of_memory_total", "job"), "{{job}}")]),
    ),
    "Kafka": (
        Panel("Partitions", "Assigned to workers, and of those not fetched at present, because their records wait.",
              "short",
              [("sum by (topic) (align_assigned_partitions{OF})", "assigned {{topic}}"),
               ("sum by (topic) (align_paused_partitions{OF})", "paused {{topic}}")]),
        Panel("Rebalances", "Each stops the group for a moment. Lost partitions are those of a silent member.", "ops",
              [(rate("align_rebalances_total", "event"), "{{event}}")]),
        Panel("Commits", "Of offsets, by result.", "ops", [(rate("align_commits_total", "result"), "{{result}}")]),
        Panel("Rewinds", "Returns to the last commit after a failure: the brokers accept no output.", "ops",
              [(rate("align_rewinds_total", "reason"), "{{reason}}")]),
        Panel("Failed polls", "Polls that failed and were tried again.", "ops",
              [(rate("align_poll_errors_total", "topic"), "{{topic}}")]),
        Panel("Transactions", "With delivery: exactly_once. By what became of them, and how long they took.", "ops",
              [(rate("align_transactions_total", "result"), "{{result}}")]),
        Panel("Time of a transaction", "From its first record to its commit.", "s",
              quantiles("align_transaction_duration_seconds")),
        Panel("Time since the last output", "Since a worker's last vector was acknowledged.", "s",
              [("time() - max by (job) (align_last_publish_timestamp_seconds{OF})", "{{job}}")]),
        Panel("Time since the last commit", "Since a worker's last commit succeeded.", "s",
              [("time() - max by (job) (align_last_commit_timestamp_seconds{OF})", "{{job}}")]),
    ),
    "Records that bring no vector": (
        Panel("Dead letters", "By reason. deploy/README.md, Dead letters, says whose move each is.", "ops",
              [(rate("align_records_dead_lettered_total", "reason"), "{{reason}}")]),
        Panel("Dead letters that cannot be written", "Their partition waits: AlignDeadLetterFailing.", "ops",
              [(rate("align_dead_letter_failures_total", "topic"), "{{topic}}")]),
        Panel("Ignored", "Features of a modality that the space has not, content that no encoder is for, and users of "
              "whose events no vector can be made.", "ops",
              [(rate("align_features_ignored_total", "topic"), "features {{topic}}"),
               (rate("align_content_ignored_total", "topic"), "content {{topic}}"),
               (rate("align_without_vector_total", "topic"), "without vector {{topic}}")]),
    ),
    "Vectors": (
        Panel("Vector health", "1: the last 1,000 vectors pass the check. 0: AlignVectorsShifted, "
              "AlignVectorsCollapsed or AlignUsersMisaligned.", "short",
              [("min by (topic, check) (align_vector_health{OF})", "{{check}} {{topic}}")]),
        Panel("How far from the limit", "What each check looks at, over its limit. For collapse, rank and alignment "
              "less is worse, for the others more.", "percentunit",
              [("max by (topic, check) (align_vector_health_value{OF}) / "
                "max by (topic, check) (align_vector_health_limit{OF})", "{{check}} {{topic}}")]),
        Panel("Codes in use", "Perplexity of each level, where the space has codebooks: it falls where items crowd "
              "into few codes.", "short",
              [("min by (topic, level) (align_code_perplexity{OF})", "level {{level}} {{topic}}")]),
        Panel("What codes leave", "Of a vector, over what they left of those they were learned from. Over 1.25 the "
              "items are of another kind: learn codes again (space codes --like).", "percentunit",
              [("max by (topic) (align_code_residual_ratio{OF})", "{{topic}}")]),
        Panel("Blocks that were ill", "Of 334 vectors, by check.", "ops",
              [(rate("align_vector_health_ill_total", "topic, check"), "{{check}} {{topic}}")]),
    ),
    "What is remembered": (
        Panel("Items and users", "Remembered by the workers.", "short",
              [("sum by (topic) (align_state_values{OF})", "{{topic}}")]),
        Panel("Room for them", "In memory, or under state.dir. The table of item vectors lies on the device.", "bytes",
              [("sum by (topic) (align_state_bytes{OF})", "state {{topic}}"),
               ("max by (topic) (align_table_bytes{OF})", "table of one worker {{topic}}")]),
        Panel("Restoring", "Changelog records that are read after a start or a rebalance.", "ops",
              [(rate("align_restored_records_total", "topic"), "{{topic}}")]),
        Panel("Waiting for an item", "Pairs of a user or an item, and an item that has no vector yet.", "short",
              [("sum by (topic) (align_waiting_pairs{OF})", "{{topic}}")]),
        Panel("Computed anew", "Because an item's vector came or changed; and pairs that found no room to wait.", "ops",
              [(rate("align_recomputed_total", "topic"), "computed anew {{topic}}"),
               (rate("align_waiting_overflow_total", "topic"), "no room {{topic}}")]),
        Panel("Table of item vectors", "Items in it, and records of another space, which it does not take.", "short",
              [("max by (topic) (align_table_items{OF})", "items {{topic}}"),
               (rate("align_table_foreign_total", "topic"), "foreign per second {{topic}}")]),
    ),
    "Raw content": (
        Panel("Encoded", "Contents encoded, and those that were encoded before, by modality.", "ops",
              [(rate("align_encode_contents_total", "modality"), "encoded {{modality}}"),
               (rate("align_encode_reused_total", "modality"), "reused {{modality}}")]),
        Panel("Busy encoders", "Seconds of a second that the encoder of a modality works.", "percentunit",
              [(rate("align_encode_seconds_total", "modality"), "{{modality}}")]),
        Panel("Contents that could not be used", "By modality and reason.", "ops",
              [(rate("align_encode_failures_total", "modality, reason"), "{{modality}} {{reason}}")]),
        Panel("Time of a fetch", "Mean time that a URI took.", "s",
              [(f"{rate('align_fetch_seconds_total', 'modality')} / {rate('align_fetches_total', 'modality')}",
                "{{modality}}")]),
        Panel("Failed fetches", "URIs that were refused or could not be fetched.", "ops",
              [(rate("align_fetch_failures_total", "modality"), "{{modality}}")]),
        Panel("Time of a media file", "Mean time that a file took to read.", "s",
              [(f"{rate('align_content_read_seconds_total', 'modality')} / "
                f"{rate('align_content_read_total', 'modality')}", "{{modality}}")]),
    ),
    "Encoders that are servers": (
        Panel("Requests", "To the server of a modality: answered, and those that came to nothing, which are made "
              "again. Many of these are AlignEncoderFailing.", "ops",
              [(rate("align_remote_answers_total", "modality"), "answered {{modality}}"),
               (rate("align_remote_faults_total", "modality"), "faults {{modality}}"),
               (rate("align_remote_busy_total", "modality"), "too busy {{modality}}"),
               (rate("align_remote_retries_total", "modality"), "again {{modality}}")]),
        Panel("Time of an answer", "Mean time from a request to its vectors.", "s",
              [(f"{rate('align_remote_answer_seconds_total', 'modality')} / "
                f"{rate('align_remote_answers_total', 'modality')}", "{{modality}}")]),
        Panel("Requests under way", "And how many may be, as the server answers now.", "short",
              [("sum by (modality) (align_remote_in_flight{OF})", "under way {{modality}}"),
               ("sum by (modality) (align_remote_limit{OF})", "limit {{modality}}")]),
        Panel("Servers that are down", "Workers that do not ask them: they do not answer, or are another model. Items "
              "wait: AlignEncoderDown.", "short",
              [("sum by (modality) (align_remote_down{OF})", "{{modality}}")]),
        Panel("Contents that a server does not take", "While it takes others. These items are dead letters.", "ops",
              [(rate("align_remote_refused_total", "modality"), "{{modality}}")]),
    ),
    "Indexes that sinks write to": (
        Panel("Time of a batch", "From when it was taken until the index had acknowledged it, retries included.", "s",
              [(f"histogram_quantile({share}, {rate('align_sink_write_seconds_bucket', 'job, le')})",
                f"p{share * 100:g} {{{{job}}}}") for share in (0.5, 0.99)]),
        Panel("Records of a batch", "Mean. Many mean that the index is the slower side.", "short",
              [(mean("align_sink_batch_records", "job"), "{{job}}")]),
        Panel("Failed attempts", "To write a batch, which is tried again. AlignSinkFailing.", "ops",
              [(rate("align_sink_failures_total", "job"), "{{job}}")]),
        Panel("Index takes nothing", "For how long a batch has been tried again. More than two minutes are "
              "AlignSinkBlocked.", "s",
              [("max by (job) (align_sink_waiting_seconds{OF})", "{{job}}")]),
    ),
    "Spaces and devices": (
        Panel("Spaces", "Workers by the space they have loaded. Two of one deployment are AlignSpaceMismatch.", "short",
              [("count by (job, space_id) (align_space_info{OF})", "{{job}} {{space_id}}")]),
        Panel("Devices", "Workers by device and arithmetic.", "short",
              [("count by (device_active, dtype_active) (align_device_info{OF})",
                "{{device_active}} {{dtype_active}}")]),
        Panel("Versions", "Workers by version.", "short",
              [("count by (job, version) (align_build_info{OF})", "{{job}} {{version}}")]),
    ),
}  # fmt: skip


def dashboard() -> dict[str, Any]:
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS.items():
        place = {"h": 1, "w": 24, "x": 0, "y": top}
        panels.append({"id": len(panels) + 1, "type": "row", "title": title, "collapsed": False, "panels": [],
                       "gridPos": place})  # fmt: skip
        for number, panel in enumerate(row):
            line, column = divmod(number, PER_ROW)
            place = {"h": HEIGHT, "w": WIDTH, "x": column * WIDTH, "y": top + 1 + line * HEIGHT}
            panels.append(_panel(panel, len(panels) + 1, place))
        top += 1 + HEIGHT * -(-len(row) // PER_ROW)
    return {
        "uid": UID,
        "title": "align-worker",
        "description": "What the workers of a deployment do. Alerts and what to do: deploy/README.md.",
        "tags": ["align-worker"],
        "schemaVersion": 39,
        "version": 1,
        "editable": False,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [_datasource(), _variable("job", "align_build_info"),
                                _variable("instance", 'align_build_info{job=~"$job"}')]},
        "annotations": {"list": []},
        "panels": panels,
    }  # fmt: skip


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "hide": 0}


def _variable(name: str, series: str) -> dict[str, Any]:
    query = f"label_values({series}, {name})"
    return {
        "name": name, "label": name, "type": "query", "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "definition": query, "query": {"query": query, "refId": name}, "refresh": 2, "sort": 1, "hide": 0,
        "multi": True, "includeAll": True, "allValue": ".+", "current": {"text": ["All"], "value": ["$__all"]},
    }  # fmt: skip


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    return {
        "id": number, "type": "timeseries", "title": panel.title, "description": panel.description,
        "datasource": source, "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": source, "legendFormat": legend,
             "expr": expression.replace("OF", OF)}
            for index, (expression, legend) in enumerate(panel.queries)
        ],
    }  # fmt: skip


def text() -> str:
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text())
