from __future__ import annotations

from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr

from dp_ros.data.episode_writer import EpisodeWriter
from dp_ros.data.replay_buffer import ReplayBuffer
from dp_ros.errors import UserError
from dp_ros.task import load_task
from test.data.recorded import random_episode


def foreign(path: Path, ends: Any, rows: int = 6, **options: Any) -> Path:
    """A recording as another program would write it."""
    root = zarr.open_group(str(path), mode="w", zarr_format=2)
    root.create_array("data/action", data=np.arange(rows * 2, dtype="<f4").reshape(rows, 2), **options)
    root.create_array("data/state", data=np.arange(rows, dtype="<f8"), **options)
    if ends is not None:
        root.create_array("meta/episode_ends", data=np.asarray(ends))
    return path


def test_a_recording_of_another_program_is_read(tmp_path: Path) -> None:
    buffer = ReplayBuffer.open(foreign(tmp_path / "x.zarr", [2, 6]))
    assert (buffer.n_episodes, buffer.n_steps, buffer.keys()) == (2, 6, ["action", "state"])
    assert buffer.episode(1)["state"].tolist() == [2, 3, 4, 5]
    assert buffer.episode(-1)["action"].tolist() == buffer.episode(1)["action"].tolist()
    assert buffer.episode_seeds.tolist() == [-1, -1]
    assert buffer.task is None
    assert "state" in buffer and "image" not in buffer


def test_rows_beyond_the_last_episode_are_never_given(tmp_path: Path) -> None:
    buffer = ReplayBuffer.open(foreign(tmp_path / "x.zarr", [2, 5]))
    assert buffer["state"].tolist() == [0, 1, 2, 3, 4]
    assert buffer.rows("state", 4, 99).tolist() == [4]
    assert buffer.unfinished_steps == 1


def test_a_commit_while_it_is_opened_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit comes when the arrays have been looked at, and once more when the index has."""
    task, path = load_task("pusht_state"), tmp_path / "x.zarr"
    with EpisodeWriter(path, task) as writer:

        def record() -> None:
            for step in random_episode(task, 3, writer.n_episodes):
                writer.add(step)
            writer.save(writer.n_episodes)

        arrays = zarr.Group.arrays

        def looked_at(group: zarr.Group) -> Any:
            record()
            found = list(arrays(group))
            record()
            return found

        monkeypatch.setattr(zarr.Group, "arrays", looked_at)
        first, second = ReplayBuffer.open(path), ReplayBuffer.open(path)
    assert (first.n_episodes, second.n_episodes) == (0, 2)
    assert second.episode_ends.tolist() == [3, 6]
    assert second["timestamp"].shape == (6,)


def test_an_empty_recording_has_no_episodes(tmp_path: Path) -> None:
    buffer = ReplayBuffer.open(foreign(tmp_path / "x.zarr", np.zeros(0, np.int64)))
    assert (buffer.n_episodes, buffer.n_steps, len(buffer["action"])) == (0, 0, 0)
    with pytest.raises(IndexError, match="episode 0 of 0"):
        buffer.episode(0)


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        (None, "has no meta/episode_ends; .* Restore it from a copy, or write there"),
        ([2, 7], "data/action has 6 rows but meta/episode_ends says 7"),
        ([4, 2], "not increasing: episode 1 ends at row 2, the one before at 4"),
        ([3, 3, 6], "not increasing: episode 1 ends at row 3"),
        ([0, 6], "not increasing: episode 0 ends at row 0"),
        ([1.5, 6], "expected a list of integers"),
        ([[2], [6]], "expected a list of integers"),
    ],
)
def test_a_damaged_index_is_named(tmp_path: Path, ends: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ReplayBuffer.open(foreign(tmp_path / "x.zarr", ends))


def test_what_is_not_a_recording_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "garbage").mkdir()
    (tmp_path / "garbage" / ".zgroup").write_text("{")
    zarr.open_group(str(tmp_path / "empty"), mode="w", zarr_format=2)
    zarr.open_group(str(tmp_path / "v3"), mode="w", zarr_format=3)
    for name, message in [
        ("absent", "is not there"),
        ("file", "File is not a zip file"),
        ("folder", "no zarr v2 group"),
        ("v3", "no zarr v2 group"),
        ("garbage", "not readable as zarr"),
        ("empty", "has no arrays under data/"),
    ]:
        with pytest.raises(UserError, match=f"{name}: .*{message}"):
            ReplayBuffer.open(tmp_path / name)


def test_an_unknown_array_is_named_with_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no data/image; it has action, state"):
        ReplayBuffer.open(foreign(tmp_path / "x.zarr", [6]))["image"]


def test_the_digest_depends_on_content_only(tmp_path: Path) -> None:
    plain = ReplayBuffer.open(foreign(tmp_path / "a", [2, 6], compressors=None)).digest()
    packed = foreign(tmp_path / "b", [2, 6], compressors=numcodecs.Blosc(), chunks="auto")
    assert ReplayBuffer.open(packed).digest() == plain
    longer = ReplayBuffer.open(foreign(tmp_path / "c", [2, 6], rows=9)).digest()
    assert longer == plain  # rows of no episode do not count
    assert ReplayBuffer.open(foreign(tmp_path / "d", [3, 6])).digest() != plain
    zarr.open_group(str(packed), mode="r+")["data/state"][3] = 3.5
    assert ReplayBuffer.open(packed).digest() != plain
