"""The GPU is looked at from a thread of its own, and only where there is one."""

from __future__ import annotations

import threading

import pytest

from worker.align.usage import DeviceUsage, device_usage
from worker.process import device_watch
from worker.process.device_watch import DeviceWatch

USAGE = DeviceUsage(allocated=1, reserved=2, total=3, utilization=None)


def is_watching() -> bool:
    return any(thread.name == "device" for thread in threading.enumerate())


def test_without_a_gpu_there_is_nothing_to_look_at() -> None:
    seen: list[DeviceUsage] = []
    watch = DeviceWatch("cpu", lambda device, usage: seen.append(usage))
    watch.start()
    assert device_usage("cpu") is None
    assert seen == []
    assert not is_watching()


def test_a_gpu_is_looked_at_again_and_again_until_it_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_watch, "INTERVAL_S", 0.001)
    seen: list[tuple[str, DeviceUsage]] = []
    thrice = threading.Event()

    def on_usage(device: str, usage: DeviceUsage) -> None:
        seen.append((device, usage))
        if len(seen) == 3:
            thrice.set()

    watch = DeviceWatch("cuda:0", on_usage, lambda device: USAGE)
    watch.start()
    assert thrice.wait(30)
    watch.stop()
    assert set(seen) == {("cuda:0", USAGE)}


def test_a_driver_that_fails_ends_the_looking_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    def broken(device: str) -> DeviceUsage:
        raise RuntimeError("the driver is gone")

    DeviceWatch("cuda:0", lambda device, usage: None, broken).start()
    assert "the GPU cannot be looked at: the driver is gone" in caplog.text
