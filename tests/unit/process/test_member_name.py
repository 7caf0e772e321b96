"""The name under which a process comes back to its group."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from worker.process.member_name import own_directory, take_name, with_member_name
from worker.settings import KafkaSettings, Settings, StateSettings

HOLD = """
import sys
from pathlib import Path
from worker.process.member_name import take_name
place = take_name(Path(sys.argv[1]), "group", "boot")
print(place.name, flush=True)
sys.stdin.read()
"""


def take(directory: Path, key: str = "group", boot_id: str = "boot") -> Any:
    place = take_name(directory, key, boot_id)
    assert place is not None
    return place


def test_no_two_that_live_have_one_name_and_the_next_one_gets_that_of_the_dead(tmp_path: Path) -> None:
    first, second, third = (take(tmp_path) for _ in range(3))
    names = [first.name, second.name, third.name]
    assert len(set(names)) == 3
    second.close()
    assert take(tmp_path).name == names[1]


@pytest.mark.timeout(60)
def test_a_process_that_is_killed_leaves_its_name_to_the_next_one(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        name = process.stdout.readline().strip()
        other = take(tmp_path)
        assert name
        assert other.name != name
        process.kill()
    assert take(tmp_path).name == name


def test_a_child_that_outlives_the_process_does_not_keep_the_name(tmp_path: Path) -> None:
    place = take(tmp_path)
    with subprocess.Popen(["sleep", "60"]) as child:
        place.close()
        assert take(tmp_path).name == place.name
        child.kill()


def test_names_of_another_group_are_left_alone(tmp_path: Path) -> None:
    name = take(tmp_path, "a").name
    assert take(tmp_path, "b").name != name
    assert take(tmp_path, "a").name == name


@pytest.mark.parametrize("content", ["another boot\nhost-1", "boot\n", "boot\nnot a name!", "", "boot", "\0" * 40])
def test_a_file_that_was_copied_or_torn_is_not_believed(tmp_path: Path, content: str) -> None:
    (tmp_path / "group-0").write_text(content)
    place = take(tmp_path)
    name = place.name
    assert name not in ("host-1", "")
    place.close()
    assert take(tmp_path).name == name


def test_a_directory_of_somebody_else_is_not_used(tmp_path: Path) -> None:
    directory = own_directory(tmp_path)
    assert own_directory(tmp_path) == directory
    directory.chmod(0o777)
    with pytest.raises(PermissionError):
        own_directory(tmp_path)
    directory.rmdir()
    (tmp_path / "elsewhere").mkdir()
    directory.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError):
        own_directory(tmp_path)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def named(**kafka: Any) -> tuple[str | None, bool]:
    settings, place = with_member_name(Settings(kafka=KafkaSettings(**kafka)))
    if place is not None:
        place.close()
    return settings.kafka.group_instance_id, settings.kafka.leaves_group


def test_a_member_has_a_name_by_default_and_leaves_all_the_same(here: Any) -> None:
    name, leaves = named()
    assert name
    assert leaves
    assert named() == (name, True)


def test_a_name_that_is_given_stays_and_so_does_its_member(here: Any) -> None:
    assert named(group_instance_id="pod-1") == ("pod-1", False)
    assert named(group_instance_id="pod-1", leave_group=True) == ("pod-1", True)


def test_none_is_remembered_where_that_is_not_wanted_or_the_broker_keeps_none(here: Any) -> None:
    assert named(remember_member=False) == (None, True)
    assert named(api_version=(2, 3)) == (None, True)


def test_where_nothing_can_be_written_the_worker_goes_without_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/no/such/directory")
    assert named() == (None, True)
    assert "kafka.group_instance_id" in caplog.text


def test_each_disk_has_a_name_of_its_own(here: Any, tmp_path: Path) -> None:
    def name_of(disk: str) -> str | None:
        settings, place = with_member_name(Settings(state=StateSettings(dir=tmp_path / disk)))
        assert place is not None
        place.close()
        return settings.kafka.group_instance_id

    first = name_of("a")
    assert name_of("b") != first
    assert name_of("a") == first


def test_the_directory_is_this_users(here: Any, tmp_path: Path) -> None:
    named()
    assert own_directory(tmp_path).stat().st_mode & 0o777 == 0o700
    assert own_directory(tmp_path).name.endswith(str(os.getuid()))
