"""A real catalogue with its ratings, imported by the documented command, where there is one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.real_catalogue import DATA
from worker.data import load_dataset, split_by_time
from worker.data.lists import read_item_list, read_titles


@pytest.mark.acceptance
@pytest.mark.skipif(not DATA.is_dir(), reason=f"needs a real catalogue: {DATA}")
def test_a_real_catalogue_is_imported_whole(tmp_path: Path) -> None:
    command = ["import", "movielens", "--out", str(tmp_path), "--json"]
    for flag, name in (("--ratings", "ratings.csv"), ("--items", "items.csv"), ("--features", "features.npz")):
        command += [flag, str(DATA / name)]
    done = subprocess.run([sys.executable, "-m", "worker", *command], capture_output=True, check=True, timeout=120)
    summary = json.loads(done.stdout)
    assert (summary["num_items"], summary["num_events"], summary["num_users"]) == (9_742, 100_836, 610)
    assert summary["items_with"]["text"] == 9_742
    assert summary["lists"] == {"cold_test": 944, "cold_val": 629}
    assert read_titles(tmp_path / "titles.csv")["1"] == "Toy Story (1995)"

    weights = {"like": 1.0, "dislike": -0.5}
    loaded = load_dataset([tmp_path / "items.msgpack"], [tmp_path / "events.msgpack"], weights)
    assert loaded.left_out.unweighted == {"rate": summary["events_of_type"]["rate"]}
    assert loaded.left_out.duplicates == loaded.left_out.unknown_items == loaded.left_out.superseded == 0
    cold_val_I, cold_test_I = (
        read_item_list(tmp_path / f"{name}.txt", loaded.dataset.item_ids) for name in ("cold_val", "cold_test")
    )
    split = split_by_time(loaded.dataset.events, cold_val_I, cold_test_I)
    asked = [set(split.events.users_E[each].tolist()) for each in (split.val_events, split.test_events)]
    assert len(asked[0] & asked[1]) == 595  # users with five events or more
