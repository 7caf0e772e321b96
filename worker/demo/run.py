"""The broker, the worker, and the order in which things are shown."""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from worker.demo import items
from worker.demo.outside import Outside
from worker.demo.progress import say
from worker.demo.users import People
from worker.errors import ConfigError, WorkerError
from worker.kafka.embedded import EmbeddedBroker
from worker.monitoring import logs
from worker.process.service import Service
from worker.settings import Settings
from worker.synthetic import MODALITIES, Catalogue, SyntheticItem
from worker.topics import needed_topics

NUM_PARTITIONS = 4
LIVE_RATE = 300  # items per second in the second part
LIVE_SECONDS = 4.0
NUM_EVENTS = 20_000
EVENT_RATE = 300
EVENT_SECONDS = 3.0
NO_END = 2**40
START_TIMEOUT_S = 30.0


def run_demo(load_settings: Callable[[Mapping[str, str]], Settings], *, num_items: int, seed: int, keep: bool) -> int:
    """Run it; with `keep`, until interrupted. Returns the exit code."""
    with EmbeddedBroker() as broker, tempfile.TemporaryDirectory(prefix="align-demo-") as directory:
        space_path = Path(directory) / "space"
        settings = load_settings(_defaults(broker, space_path))
        if "items" not in settings.roles:
            raise ConfigError("roles: the demo needs items; users are optional")
        logs.configure("error", "text")
        # Connections to the embedded broker come and go at the start and the end, which the client reports as errors.
        logging.getLogger("kafka").setLevel(logging.CRITICAL)
        for topic in needed_topics(settings):
            broker.create_topic(topic, NUM_PARTITIONS)
        if settings.space.path == space_path:
            _create_space(space_path)
        with _worker(settings) as service:
            say(f"worker ready; status page: {service.http.address}/")
            catalogue = Catalogue(seed)
            with closing(Outside(settings, NUM_PARTITIONS)) as outside:
                endless = catalogue.items(NO_END)
                _show_items(outside, endless, num_items)
                if "users" in settings.roles:
                    _show_users(outside, endless, People(outside, catalogue, seed, _event_weights(settings)))
            if keep:
                _keep(settings, service)
        _show_accounting(service)  # final, because the worker has drained
    return 0


def _show_items(outside: Outside, endless: Iterator[SyntheticItem], num_items: int) -> None:
    items.load(outside, endless, num_items)
    items.live(outside, endless, LIVE_RATE, LIVE_SECONDS)
    items.show_neighbors(outside)


def _show_users(outside: Outside, endless: Iterator[SyntheticItem], people: People) -> None:
    people.load(NUM_EVENTS)
    people.live(EVENT_RATE, EVENT_SECONDS)
    people.show_fit()
    people.click()
    people.new_items(endless)
    people.click_too_early(endless)


def _event_weights(settings: Settings) -> Mapping[str, float]:
    from worker.align import Space

    assert settings.space.path is not None  # the worker runs
    user = Space.load(settings.space.path).spec.user
    assert user is not None  # with this role, too
    return user.event_weights


def _defaults(broker: EmbeddedBroker, space_path: Path) -> dict[str, str]:
    return {
        "kafka.bootstrap_servers": broker.bootstrap_servers,
        "kafka.api_version": ",".join(map(str, broker.settings["api_version"])),
        "kafka.check_crcs": str(broker.settings["check_crcs"]),
        "kafka.fetch_max_wait_ms": str(broker.settings["fetch_max_wait_ms"]),
        "roles": "items,users",
        "space.path": str(space_path),
        "http.host": "127.0.0.1",
        "http.port": "0",
        "log.format": "text",
    }


def _create_space(path: Path) -> None:
    from worker.align import command

    command.create(path, MODALITIES, dim=128)


@contextmanager
def _worker(settings: Settings) -> Iterator[Service]:
    """The real worker on a thread of this process, drained at the end."""
    service, stop = Service(settings), threading.Event()
    failed: list[WorkerError] = []

    def run() -> None:
        try:
            service.run(stop)
        except WorkerError as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="worker")
    thread.start()
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not service.health.readyz().ok and thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.05)
        if failed:
            raise failed[0]
        yield service
    finally:
        stop.set()
        thread.join()
    if failed:
        raise failed[0]


def _show_accounting(service: Service) -> None:
    say("")
    for role, metrics in sorted(service.metrics.items()):
        totals = metrics.accounting.totals
        say(
            f"{role}: {totals.consumed} consumed = {sum(totals.published.values())} published + "
            f"{sum(totals.superseded.values())} superseded + {sum(totals.dead_lettered.values())} dead-lettered + "
            f"{totals.abandoned} abandoned + {totals.in_flight} in flight"
        )


def _keep(settings: Settings, service: Service) -> None:
    say(
        f"\nleft running; attach your own producer:\n"
        f"  bootstrap servers  {settings.kafka.bootstrap_servers}\n"
        f"  topics             {settings.topics.items} and {settings.topics.events}; the format is in "
        f"schemas/README.md\n"
        f"  status page        {service.http.address}/\n"
        f"Ctrl-C ends it"
    )
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        say("")
