"""The documented walk-through over a catalogue of clips, shorter."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.video_catalogue import TIMES_CHANCE, Walk
from tests.clips import THEMES


@pytest.mark.campaign
@pytest.mark.acceptance
@pytest.mark.timeout(900)
def test_clips_find_one_another_across_modalities_and_their_users(tmp_path: Path) -> None:
    said: list[str] = []
    walk = Walk(tmp_path, per_theme=8, say=said.append)
    shares = walk.run()
    print("\n".join(said))
    assert len(walk.clips) == 8 * len(THEMES) >= 40
    assert [share for share in shares if not share.ok] == [], f"under {TIMES_CHANCE:g} times chance"
    questions = " ".join(share.question for share in shares)
    assert all(each in questions for each in ("text → video", "video → sound", "like this", "120 users"))
