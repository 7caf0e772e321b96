from prometheus_client import CollectorRegistry

from worker.monitoring.accounting import Accounting


def test_a_scrape_shows_one_moment() -> None:
    accounting, registry = Accounting("items"), CollectorRegistry()
    registry.register(accounting)
    accounting.consumed += 10
    accounting.published["upsert"] += 4
    accounting.superseded["stale_revision"] += 1
    accounting.dead_lettered["non_finite"] += 2
    assert accounting.snapshot(in_flight=3).unaccounted() == 0
    accounting.consumed += 5  # happens between two steps of the loop
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in registry.collect()
        for sample in family.samples
    }
    assert samples["align_records_consumed_total", "items"] == 10
    assert samples["align_records_published_total", "items", "upsert"] == 4
    assert samples["align_records_in_flight", "items"] == 3
    total = sum(value for (name, *_), value in samples.items() if name.endswith("_total") and "consumed" not in name)
    assert total + 3 == 10


def test_a_lost_record_shows() -> None:
    accounting = Accounting("items")
    accounting.consumed += 2
    accounting.published["upsert"] += 1
    assert accounting.snapshot(in_flight=0).unaccounted() == 1
