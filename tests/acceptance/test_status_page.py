"""The status page in a real browser: it follows the worker, and shows what came from outside as text only.

Needs Chromium and chromedriver on PATH, and selenium.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from prometheus_client import CollectorRegistry

from worker.monitoring.health import Health
from worker.monitoring.http import HttpServer
from worker.monitoring.status import (
    AccountingStatus,
    Concern,
    DeadLetterStatus,
    EncoderStatus,
    History,
    Mode,
    PartitionStatus,
    ProcessState,
    RoleStatus,
    Status,
    Tone,
    WarningStatus,
)
from worker.partitions.state import PartitionState

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHROMEDRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage"
)
MARKUP = "<img src=x onerror=\"window.harmed='yes'\"><script>window.harmed='yes'</script>"
PATIENCE_S = 10.0


def make_status(**changes: Any) -> Status:
    """A healthy worker, reporting now. Changes of the role's fields are made to its role."""
    now_ms = time.time_ns() // 1_000_000
    of_role = {name: changes.pop(name) for name in list(changes) if name in RoleStatus.model_fields.keys() - {"state"}}
    status = Status(
        version="1.2.3",
        state=ProcessState.RUNNING,
        started_at_ms=now_ms - 3_700_000,
        now_ms=now_ms,
        delivery="at_least_once",
        space={"space_id": "0f3a9c", "dim": 256, "modalities": ["image", "text"]},
        device={
            "device_requested": "auto",
            "device_active": "cpu",
            "dtype_requested": "bfloat16",
            "dtype_active": "float32",
        },
        roles=[make_role().model_copy(update=of_role)],
    )
    return status.model_copy(update=changes)


def make_role() -> RoleStatus:
    return RoleStatus(
        role="items",
        group_id="align-worker",
        group_stable=True,
        topics={"items": "items", "item_vectors": "item-vectors"},
        mode=Mode.LIVE,
        partitions=[
            PartitionStatus(partition=0, state=PartitionState.RUNNING, position=1_200, committed=1_190, lag=1_500),
            PartitionStatus(partition=1, state=PartitionState.NEW, position=None, committed=None, lag=None),
        ],
        accounting=AccountingStatus(
            consumed=1_234, published=1_200, superseded=20, dead_lettered=3, abandoned=1, in_flight=10
        ),
        per_second=812.4,
        latency_ms={"p50": 12.3, "p99": 1_234.0},
        freshness_ms={"p50": 45.0, "p99": None},
        batch_fill=0.5,
        batch_max_records=512,
        queue_records=2_048,
        queue_limit=8_192,
        unacknowledged=77,
        state={"remembered": 300_000, "bytes": 900},
        dead_letters=[],
    )


class World:
    """A server whose status the test changes, and the page that shows it."""

    def __init__(self, browser: Any) -> None:
        self.browser = browser
        self.changes: dict[str, Any] = {}
        self.status: Callable[[], Status] = lambda: make_status(**self.changes)
        self.server = self.listen(0)
        self.address = self.server.address
        self.may_lose_connection = False

    def listen(self, port: int) -> HttpServer:
        server = HttpServer("127.0.0.1", port, CollectorRegistry(), Health(), lambda: self.status())
        server.start()
        return server

    def run(self, script: str) -> Any:
        return self.browser.execute_script(script)

    def text(self, element: str) -> str:
        return str(self.run(f"return document.getElementById('{element}').innerText"))

    def lines(self, element: str) -> list[str]:
        """The texts of a table's rows, or of a list's entries."""
        return list(self.run(f"return [...document.getElementById('{element}').children].map((row) => row.innerText)"))

    def wait(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < deadline, self.run("return document.body.innerText")
            time.sleep(0.05)

    def wait_for_state(self, state: str) -> None:
        self.wait(lambda: self.text("state") == state)

    def emulate(self, scheme: str, width: int) -> None:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)

    def requested_urls(self) -> set[str]:
        events = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        return {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"}

    def complaints(self) -> list[str]:
        said = [entry["message"] for entry in self.browser.get_log("browser")]
        return [line for line in said if not (self.may_lose_connection and "/status.json" in line)]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if CHROMIUM is None or CHROMEDRIVER is None:
        pytest.skip("chromium and chromedriver are not on PATH")
    profile: Path = tmp_path_factory.mktemp("profile")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS.split(), f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(CHROMEDRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def world(browser: Any) -> Iterator[World]:
    """An open page. Afterwards: it must have asked nobody else, and the console must be empty."""
    browser.get("about:blank")
    browser.get_log("performance"), browser.get_log("browser")
    world = World(browser)
    world.emulate("light", 1280)
    browser.get(f"{world.address}/")
    world.wait(lambda: world.text("state") != "Connecting")
    yield world
    urls, complaints = world.requested_urls(), world.complaints()
    browser.get("about:blank")
    world.server.close()
    assert complaints == []
    assert f"{world.address}/status.json" in urls
    assert {url for url in urls if not url.startswith((f"{world.address}/", "data:"))} == set()


def test_everything_a_person_on_call_asks_first_is_there(world: World) -> None:
    assert (world.text("state"), world.text("detail")) == ("Running", "")
    assert world.text("facts").split("\n") == [
        "version", "1.2.3", "up", "61 min", "delivery", "at least once",
        "group", "align-worker (stable)", "mode", "live",
    ]  # fmt: skip
    shown = {
        "rate": "812",
        "lag": "1,500",
        "latency-p50": "12 ms",
        "latency-p99": "1.2 s",
        "freshness-p50": "45 ms",
        "freshness-p99": "–",
        "fill": "50",
        "fill-limit": "512",
        "queue": "2,048",
        "queue-limit": "8,192",
        "unacknowledged": "77",
    }
    assert {element: world.text(element) for element in shown} == shown
    assert world.lines("partitions") == ["0\t✓ running\t1,200\t1,190\t1,500", "1\t… new\t–\t–\t–"]
    assert world.lines("space") == ["space id", "0f3a9c", "dim", "256", "modalities", "image, text"]
    assert world.lines("device") == ["device", "cpu (auto)", "dtype", "! float32, but bfloat16 was requested"]
    assert world.lines("held") == ["remembered", "300,000", "bytes", "900"]
    assert world.lines("topics") == ["items", "items", "item vectors", "item-vectors"]


def test_numbers_follow_the_worker_without_a_reload(world: World) -> None:
    world.run("window.sameDocument = true")
    world.changes = {"per_second": 9.25, "mode": Mode.BACKLOG, "unacknowledged": 12_345, "partitions": []}
    world.wait(lambda: world.text("unacknowledged") == "12,345")
    assert world.text("rate") == "9.3"
    assert "backlog" in world.text("facts")
    assert world.lines("partitions") == []
    assert "none assigned" in world.text("partitions-note")
    assert world.run("return window.sameDocument")


def test_each_role_has_its_figures_behind_a_tab(world: World) -> None:
    users = make_role().model_copy(update={"role": "users", "per_second": 55.0, "group_id": "align-worker-users"})
    world.changes = {"roles": [make_role(), users]}
    world.wait(lambda: world.text("roles").split() == ["items", "users"])
    assert (world.text("rate"), world.text("rate-unit")) == ("812", "items/s")
    world.run("document.querySelectorAll('#roles button')[1].click()")
    assert (world.text("rate"), world.text("rate-unit")) == ("55", "events/s")
    assert "align-worker-users" in world.text("facts")
    world.wait(lambda: world.text("rate-note") == "last 1 min, highest 55, 0 since the start")


def test_what_did_not_change_is_left_alone(world: World) -> None:
    """A replaced node would drop the selection of whoever is copying it."""
    world.run("window.before = [...document.querySelectorAll('td, dd')].map((cell) => cell.firstChild)")
    world.changes = {"unacknowledged": 1}
    world.wait(lambda: world.text("unacknowledged") == "1")
    same = "return [...document.querySelectorAll('td, dd')].every((cell, i) => cell.firstChild === window.before[i])"
    assert world.run(same)


def test_the_lines_are_those_of_the_worker_and_not_of_how_long_the_page_has_been_open(world: World) -> None:
    def num_strokes() -> int:
        path = str(world.run("return document.querySelector('#rate-line path:last-child').getAttribute('d')"))
        return path.count("L") + path.count("M")

    now_ms = time.time_ns() // 1_000_000
    at_ms = [now_ms - 1_500_000 + 10_000 * step for step in range(150)]
    history = History(at_ms=at_ms, per_second=[2_000.0, *[500.0] * 149], lag=[None, *range(149)])
    world.changes = {"history": history, "mean_per_second": 640.0}
    world.wait(lambda: num_strokes() == 151)
    assert world.text("rate-note") == "last 25 min, highest 2,000, 640 since the start"
    assert world.text("lag-note") == "last 25 min, highest 1,500"


def test_encoders_are_shown_where_there_are_any(world: World) -> None:
    hidden = "return document.getElementById('encoders-card').hidden"
    world.wait_for_state("Running")
    assert world.run(hidden)
    text = EncoderStatus(modality="text", encoder="mini-lm", encoded=1_200, reused=30, refused=4, ms_each=6.25)
    world.changes = {"encoders": [text, text.model_copy(update={"modality": MARKUP, "ms_each": None})]}
    world.wait(lambda: world.lines("encoders") != [])
    assert not world.run(hidden)
    assert world.lines("encoders") == ["text\tmini-lm\t1,200\t30\t4\t6.3", f"{MARKUP}\tmini-lm\t1,200\t30\t4\t–"]


def test_markup_in_a_dead_letter_is_shown_and_not_run(world: World) -> None:
    letter = DeadLetterStatus(at_ms=1_767_225_600_000, partition=4, offset=1_000, reason=MARKUP, detail=MARKUP)
    world.changes = {"dead_letters": [letter], "detail": MARKUP, "space": {MARKUP: MARKUP}, "group_id": MARKUP}
    world.wait(lambda: world.lines("dead") != [])
    assert world.lines("dead") == [f"2026-01-01 00:00:00\t4\t1,000\t{MARKUP}\t{MARKUP}"]
    assert world.text("detail") == MARKUP
    assert MARKUP in world.lines("space")
    assert MARKUP in world.text("facts")
    assert world.run("return document.querySelectorAll('img').length") == 0
    assert world.run("return document.querySelectorAll('script').length") == 1
    assert world.run("return window.harmed ?? null") is None


def test_the_page_could_not_be_harmed_by_a_mistake_of_its_own(world: World) -> None:
    """Even a script of the page that takes text for markup is stopped, by the browser."""
    attempt = "try { document.body.innerHTML = '<b>x</b>'; return 'done' } catch (error) { return error.name }"
    assert world.run(attempt) == "TypeError"
    [complaint] = world.complaints()
    assert "TrustedHTML" in complaint


@pytest.mark.parametrize(
    ("state", "label", "tone"),
    [
        (ProcessState.STARTING, "Starting", "quiet"),
        (ProcessState.DRAINING, "Draining", "warn"),
        (ProcessState.STOPPED, "Stopped", "quiet"),
        (ProcessState.FAILED, "Failed", "bad"),
    ],
)
def test_the_banner_and_the_tab_follow_the_state(world: World, state: ProcessState, label: str, tone: str) -> None:
    world.changes = {"state": state, "detail": "publish thread has not moved for 60 s"}
    world.wait_for_state(label)
    assert world.text("detail") == "publish thread has not moved for 60 s"
    assert world.run("return document.getElementById('banner').dataset.tone") == tone
    assert world.browser.title == f"{label} – align-worker"


def concern(tone: Tone, title: str, detail: str = "D.") -> Concern:
    return Concern(kind=title, tone=tone, title=title, detail=detail)


@pytest.mark.parametrize("tone", list(Tone))
def test_a_concern_is_on_top_in_its_colour(world: World, tone: Tone) -> None:
    world.changes = {"concerns": [concern(tone, "all of the recent input is refused", "1,700 of the last 1,700")]}
    world.wait_for_state("Running, all of the recent input is refused")
    assert world.text("detail") == "1,700 of the last 1,700"
    assert world.run("return document.getElementById('banner').dataset.tone") == tone.value
    assert world.lines("concerns") == []
    world.changes = {}
    world.wait_for_state("Running")
    assert world.run("return document.getElementById('banner').dataset.tone") == "ok"


def test_the_gravest_concern_comes_first_and_the_others_below_it(world: World) -> None:
    users = make_role().model_copy(update={"role": "users", "concerns": [concern(Tone.BAD, "no broker answers")]})
    items = make_role().model_copy(update={"concerns": [concern(Tone.WARN, "restoring takes long", MARKUP)]})
    world.changes = {"roles": [items, users]}
    world.wait_for_state("Running, users: no broker answers")
    assert world.lines("concerns") == [f"items: restoring takes long. {MARKUP}"]
    assert world.run("return document.getElementById('banner').dataset.tone") == "bad"


def test_a_process_that_has_ended_is_not_said_to_run(world: World) -> None:
    world.changes = {"state": ProcessState.FAILED, "detail": "why", "concerns": [concern(Tone.WARN, "restoring")]}
    world.wait_for_state("Failed")
    assert world.lines("concerns") == []


def test_the_last_warnings_of_the_log_are_shown_as_text(world: World) -> None:
    assert world.text("warnings-note") == "none since the start"
    warning = WarningStatus(at_ms=1_767_225_600_000, level="warning", text=MARKUP, count=1_700)
    world.changes = {"warnings": [warning]}
    world.wait(lambda: world.lines("warnings") != [])
    assert world.lines("warnings") == [f"2026-01-01 00:00:00\twarning\t1,700\t{MARKUP}"]
    assert world.run("return window.harmed ?? null") is None


def test_a_stopped_partition_is_marked(world: World) -> None:
    stopped = PartitionStatus(
        partition=7, state=PartitionState.STOPPED, position=5, committed=5, lag=9, detail="no dead letters"
    )
    world.changes = {"partitions": [*make_role().partitions, stopped]}
    world.wait(lambda: len(world.lines("partitions")) == 3)
    assert world.lines("partitions")[2] == "7\t✗ stopped: no dead letters\t5\t5\t9"


def test_the_page_has_a_mark_for_every_state_a_partition_may_be_in_and_for_no_other(world: World) -> None:
    world.changes = {
        "partitions": [
            PartitionStatus(partition=number, state=state, position=None, committed=None, lag=None)
            for number, state in enumerate(PartitionState)
        ]
    }
    world.wait(lambda: len(world.lines("partitions")) == len(PartitionState))
    shown = [line.split("\t")[1].split() for line in world.lines("partitions")]
    assert [name for _, name in shown] == [state.value for state in PartitionState]
    marks = [mark for mark, _ in shown]
    assert len(set(marks)) == len(marks), "each has a mark of its own"
    assert "?" not in marks
    assert world.run("return Object.keys(PARTITION_MARKS)") == [state.value for state in PartitionState]


def test_the_page_knows_every_state_of_the_process_and_no_other(world: World) -> None:
    assert world.run("return Object.keys(STATES)") == [state.value for state in ProcessState]


def test_the_accounting_says_whether_it_adds_up(world: World) -> None:
    parts = ["1,234 consumed", "= 1,200 published", "+ 20 superseded", "+ 3 dead-lettered", "+ 1 abandoned"]
    assert world.lines("sum") == [*parts, "+ 10 in flight", "adds up"]
    for in_flight, verdict in ((9, "1 record missing"), (12, "2 records too many")):
        accounting = make_role().accounting.model_copy(update={"in_flight": in_flight})
        world.changes = {"accounting": accounting}
        world.wait(lambda: world.text("verdict") != "adds up")
        world.wait(lambda verdict=verdict: world.text("verdict") == f"does not add up: {verdict}")  # type: ignore[misc]
        assert world.run("return document.getElementById('verdict').dataset.tone") == "bad"


def test_a_lost_connection_is_said_and_found_again(world: World) -> None:
    world.may_lose_connection = True
    port = urlsplit(world.address).port
    assert port is not None
    world.server.close()
    world.wait_for_state("No connection to the worker")
    assert "The last answer came at" in world.text("detail")
    assert world.text("rate") == "812", "the last values stay readable"
    assert world.run("return getComputedStyle(document.querySelector('main')).opacity") != "1"
    world.server = world.listen(port)
    world.wait_for_state("Running")
    assert world.run("return getComputedStyle(document.querySelector('main')).opacity") == "1"


def test_an_answer_that_is_no_status_is_said(world: World) -> None:
    def broken() -> Status:
        raise RuntimeError("no status")

    world.may_lose_connection = True
    world.status = broken
    world.wait_for_state("The status cannot be read")
    assert "500" in world.text("detail")


def test_a_pipeline_that_stopped_reporting_is_said(world: World) -> None:
    frozen = make_status()
    world.status = lambda: frozen
    world.wait(lambda: world.run("return seen.status.now_ms") == frozen.now_ms)
    world.run("const now = performance.now.bind(performance); performance.now = () => now() + 60000")
    world.wait_for_state("Not moving")
    assert "has not reported for" in world.text("detail")
    world.status = make_status
    world.wait_for_state("Running")


@pytest.mark.parametrize("width", [1280, 800, 360])
def test_nothing_runs_out_of_the_window(world: World, width: int) -> None:
    letter = DeadLetterStatus(at_ms=0, partition=4, offset=2**62, reason="decode", detail="x" * 300)
    part = PartitionStatus(
        partition=4_999, state=PartitionState.STOPPED, position=2**52, committed=2**52, lag=2**40, detail="y" * 300
    )
    world.changes = {"dead_letters": [letter], "partitions": [part], "detail": "z" * 300, "group_id": "g" * 100}
    world.wait(lambda: world.lines("dead") != [])
    world.emulate("light", width)
    assert world.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0


def test_it_follows_the_preferred_colours(world: World) -> None:
    def lightness(element: str, colour: str) -> float:
        rgb = str(world.run(f"return getComputedStyle(document.querySelector('{element}')).{colour}"))
        return sum(map(float, rgb[rgb.index("(") + 1 : -1].split(",")[:3])) / (3 * 255)

    world.emulate("light", 1280)
    assert lightness("body", "backgroundColor") > 0.9 > 0.3 > lightness("body", "color")
    world.emulate("dark", 1280)
    assert lightness("body", "backgroundColor") < 0.1 < 0.8 < lightness("body", "color")


def test_without_scripts_it_points_to_the_json(browser: Any) -> None:
    server = HttpServer("127.0.0.1", 0, CollectorRegistry(), Health(), make_status)
    server.start()
    try:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
        browser.get(f"{server.address}/")
        link = browser.find_element("css selector", "noscript a, main a")
        assert link.is_displayed()
        assert link.get_attribute("href") == f"{server.address}/status.json"
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
        browser.get("about:blank")
        server.close()
