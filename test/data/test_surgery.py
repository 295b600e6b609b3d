"""Episodes are copied as they are, and what was there stays there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dp_ros.data.episode_writer import EpisodeWriter
from dp_ros.data.replay_buffer import ReplayBuffer
from dp_ros.data.surgery import copy_episodes, parse_episodes, replace_with
from dp_ros.errors import UserError
from test.data.recorded import random_episode, small_task

TASK = small_task()


def write(path: Path, seeds: list[int], task: object = TASK, takeover: bool = False) -> ReplayBuffer:
    with EpisodeWriter(path, task, takeover=takeover) as writer:  # type: ignore[arg-type]
        for seed in seeds:
            for step in random_episode(TASK, 3 + seed, seed):
                writer.add({**step, "takeover": np.uint8(0)} if takeover else step)
            writer.save(seed)
    return ReplayBuffer.open(path)


def assert_same_episode(a: ReplayBuffer, i: int, b: ReplayBuffer, j: int) -> None:
    for key, values in a.episode(i).items():
        np.testing.assert_array_equal(values, b.episode(j)[key])
    assert a.episode_seeds[i] == b.episode_seeds[j]


def test_recordings_are_put_together_in_order(tmp_path: Path) -> None:
    one, two = write(tmp_path / "1.zarr", [0, 1]), write(tmp_path / "2.zarr", [2, 3, 4])
    before = one.digest(), two.digest()
    assert copy_episodes([(one, [0, 1]), (two, [2, 0])], tmp_path / "m.zarr") == 4
    merged = ReplayBuffer.open(tmp_path / "m.zarr")
    for k, (source, index) in enumerate([(one, 0), (one, 1), (two, 2), (two, 0)]):
        assert_same_episode(merged, k, source, index)
    assert (
        ReplayBuffer.open(tmp_path / "1.zarr").digest(),
        ReplayBuffer.open(tmp_path / "2.zarr").digest(),
    ) == before


def test_in_its_place_the_whole_recording_is_kept_beside_it(tmp_path: Path) -> None:
    whole = write(tmp_path / "x.zarr", [0, 1, 2])
    digest = whole.digest()
    kept = replace_with(tmp_path / "x.zarr", [0, 2])
    assert kept == tmp_path / "x.zarr.before_1"
    assert ReplayBuffer.open(kept).digest() == digest
    assert ReplayBuffer.open(tmp_path / "x.zarr").episode_seeds.tolist() == [0, 2]
    assert replace_with(tmp_path / "x.zarr", [1]) == tmp_path / "x.zarr.before_2"
    assert ReplayBuffer.open(tmp_path / "x.zarr").episode_seeds.tolist() == [2]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.zarr", "x.zarr.before_1", "x.zarr.before_2"]


def test_what_does_not_go_together_is_refused_and_nothing_written(tmp_path: Path) -> None:
    one = write(tmp_path / "1.zarr", [0])
    other = write(tmp_path / "2.zarr", [0], small_task(name="other", rate_hz=20))
    runs = write(tmp_path / "3.zarr", [0], takeover=True)
    out = tmp_path / "out.zarr"
    with pytest.raises(
        UserError, match=r"2.zarr: is of task other .*1.zarr of small .*; only recordings of one task"
    ):
        copy_episodes([(one, [0]), (other, [0])], out)
    with pytest.raises(UserError, match="one holds demonstrations, the other runs"):
        copy_episodes([(one, [0]), (runs, [0])], out)
    with pytest.raises(UserError, match="no episode would be in it"):
        copy_episodes([(one, [])], out)
    assert not out.exists()
    with pytest.raises(UserError, match="1.zarr: is there already"):
        copy_episodes([(one, [0])], tmp_path / "1.zarr")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("3", [3]), ("0,2", [0, 2]), ("1:3,2", [1, 2]), (":", [0, 1, 2, 3]), ("2:", [2, 3]), (":1", [0])],
)
def test_episodes_by_name(text: str, expected: list[int]) -> None:
    assert parse_episodes(text, 4) == expected


@pytest.mark.parametrize("text", ["4", "-1", "3:2", "x", "", "1;2", "0:9"])
def test_episodes_that_are_not_there_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="episodes: got"):
        parse_episodes(text, 4)
