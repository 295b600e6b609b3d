"""An operator's takeovers become episodes; nothing of the policy's does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dp_ros.data.episode_writer import EpisodeWriter
from dp_ros.data.layout import NO_SEED
from dp_ros.data.lock import RecordingError
from dp_ros.data.replay_buffer import ReplayBuffer
from dp_ros.data.takeovers import stretches, takeover_episodes
from dp_ros.errors import UserError
from dp_ros.task import load_task

TASK = load_task("pusht_state")


def row(k: int) -> dict:
    return {
        "keypoint": np.arange(18.0) + k,
        "agent_pos": [k, 1.0],
        "action": [k + 1, 2.0],
        "timestamp": k / 10,
    }


def record(path: Path, *runs: str) -> Path:
    """Runs written as `..ooo.`: o where the operator commands."""
    with EpisodeWriter(path, TASK, takeover=True) as writer:
        for seed, run in enumerate(runs):
            for k, who in enumerate(run):
                writer.add({**row(k), "takeover": np.uint8(who == "o")})
            writer.save(seed)
    return path


def test_every_takeover_is_an_episode_that_begins_at_zero(tmp_path: Path) -> None:
    path = record(tmp_path / "runs.zarr", "...oooo..oo.", "......", "ooo...")
    found = list(takeover_episodes(path, TASK))
    assert [len(rows) for _, rows in found] == [4, 2, 3]
    assert [seed for seed, _ in found] == [NO_SEED, NO_SEED, 2], (
        "only one began at the start state of its seed"
    )
    first = found[0][1]
    assert [float(r["agent_pos"][0]) for r in first] == [3, 4, 5, 6]
    assert [float(r["timestamp"]) for r in first] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert "takeover" not in first[0]


def test_takeovers_can_be_added_to_a_recording_of_demonstrations(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "shown.zarr", TASK) as writer:
        for _, rows in takeover_episodes(record(tmp_path / "runs.zarr", "..ooo.oo"), TASK, min_steps=3):
            for one in rows:
                writer.add(one)
            writer.save()
    assert ReplayBuffer.open(tmp_path / "shown.zarr").episode_ends.tolist() == [3]


def test_a_recording_without_flags_is_refused(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "x.zarr", TASK) as writer:
        writer.add(row(0))
        writer.save()
    with pytest.raises(UserError, match="has no data/takeover, so nobody can tell"):
        list(takeover_episodes(tmp_path / "x.zarr", TASK))
    with pytest.raises(
        RecordingError, match="holds demonstrations, not runs in which an operator may take over"
    ):
        EpisodeWriter(tmp_path / "x.zarr", TASK, takeover=True)


def test_runs_in_which_nobody_took_over_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="nobody took over for 2 steps or more in its 2 runs; record runs in which"
    ):
        list(takeover_episodes(record(tmp_path / "runs.zarr", "....", ".o.."), TASK))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("", []), ("o", [(0, 1)]), ("...", []), (".oo.o", [(1, 3), (4, 5)]), ("oo", [(0, 2)])],
)
def test_stretches_of_ones(flags: str, expected: list) -> None:
    assert stretches(np.array([c == "o" for c in flags], bool)) == expected
