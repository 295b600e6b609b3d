"""Episodes are copied as they are, and what was there stays there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dp_ros.data import episode_index, new_recording, surgery
from dp_ros.data import lock as lock_module
from dp_ros.data.durable_store import DurableStore
from dp_ros.data.episode_index import write_index
from dp_ros.data.episode_writer import EpisodeWriter
from dp_ros.data.layout import EPISODE_SUCCESS
from dp_ros.data.lock import RecordingError
from dp_ros.data.replay_buffer import ReplayBuffer
from dp_ros.data.surgery import Label, copy_episodes, label_episode, parse_episodes, replace_with
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


def test_a_recording_that_is_being_recorded_to_is_not_replaced(tmp_path: Path) -> None:
    write(tmp_path / "x.zarr", [0, 1])
    with EpisodeWriter(tmp_path / "x.zarr", TASK) as writer:
        with pytest.raises(UserError, match="another process is recording to it"):
            replace_with(tmp_path / "x.zarr", [1])
        with pytest.raises(UserError, match="another process is recording to it"):
            label_episode(tmp_path / "x.zarr", 0, Label(1, {}))
        for step in random_episode(TASK, 5, 2):
            writer.add(step)
        writer.save(2)
    assert [path.name for path in tmp_path.iterdir()] == ["x.zarr"]
    assert ReplayBuffer.open(tmp_path / "x.zarr").episode_seeds.tolist() == [0, 1, 2]


def test_nobody_can_record_while_a_recording_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, tried = tmp_path / "x.zarr", 0
    write(path, [0, 1])
    real = surgery.copy_episodes

    def meanwhile(*args: Any) -> int:
        nonlocal tried
        with pytest.raises(RecordingError, match="another process"):
            EpisodeWriter(path, TASK)
        tried += 1
        return real(*args)

    monkeypatch.setattr(surgery, "copy_episodes", meanwhile)
    replace_with(path, [1])
    assert tried == 1
    EpisodeWriter(path, TASK).close()


def test_who_waited_for_a_recording_that_was_replaced_locks_the_one_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.zarr"
    write(path, [0, 1])
    real = os.open

    def replaced_right_after(name: Any, *args: Any) -> int:
        descriptor = real(name, *args)
        if str(name).endswith(".zgroup"):
            monkeypatch.undo()
            replace_with(path, [1])
        return descriptor

    monkeypatch.setattr(lock_module.os, "open", replaced_right_after)
    with EpisodeWriter(path, TASK), pytest.raises(RecordingError, match="another process"):
        EpisodeWriter(path, TASK)


def test_an_episode_is_labelled_afterwards_and_nothing_else_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (episode_index, new_recording):
        monkeypatch.setattr(module, "META_CHUNK_ROWS", 2)
    path = tmp_path / "x.zarr"
    whole = write(path, [0, 1, 2, 3, 4])
    digest = whole.digest()
    files = {f: (f.stat().st_ino, f.stat().st_mtime_ns) for f in (path / "data").rglob("*")}
    label_episode(path, 1, Label(1, {"operator": "anna"}))
    label_episode(path, 4, Label(0, {}))
    label_episode(path, 1, Label(None, {"instruction": "push"}))
    buffer = ReplayBuffer.open(path)
    assert buffer.episode_success.tolist() == [-1, 1, -1, -1, 0]
    assert buffer.episode_info == [{}, {"operator": "anna", "instruction": "push"}, {}, {}, {}]
    assert buffer.digest() == digest and buffer.episode_seeds.tolist() == [0, 1, 2, 3, 4]
    assert {f: (f.stat().st_ino, f.stat().st_mtime_ns) for f in (path / "data").rglob("*")} == files
    with EpisodeWriter(path, TASK) as writer:
        for step in random_episode(TASK, 3, 5):
            writer.add(step)
        writer.save(5, success=True)
    assert ReplayBuffer.open(path).episode_success.tolist() == [-1, 1, -1, -1, 0, 1]
    assert ReplayBuffer.open(path).episode_seeds.tolist() == [0, 1, 2, 3, 4, 5]


def test_what_was_said_before_is_replaced_only_on_demand(tmp_path: Path) -> None:
    path = tmp_path / "x.zarr"
    write(path, [0, 1])
    label_episode(path, 0, Label(1, {"operator": "anna"}))
    label_episode(path, 0, Label(1, {"operator": "anna"}))  # the same again replaces nothing
    with pytest.raises(UserError, match=r"episode 0 is said to have success, operator 'anna'.*--yes"):
        label_episode(path, 0, Label(-1, {"operator": ""}))
    assert ReplayBuffer.open(path).episode_success.tolist() == [1, -1]
    label_episode(path, 0, Label(-1, {"operator": ""}), replace=True)
    buffer = ReplayBuffer.open(path)
    assert buffer.episode_success.tolist() == [-1, -1] and buffer.episode_info == [{}, {}]
    with pytest.raises(UserError, match="got episode 2, it has 0 to 1"):
        label_episode(path, 2, Label(1, {}))


def test_a_label_holds_beside_what_a_killed_save_left(tmp_path: Path) -> None:
    """The marks of an episode that was never committed are longer than the episodes are many."""
    path = tmp_path / "x.zarr"
    write(path, [0, 1])
    write_index(DurableStore(path), path, EPISODE_SUCCESS, np.array([-1, -1, 1]))
    label_episode(path, 0, Label(0, {}))
    assert ReplayBuffer.open(path).episode_success.tolist() == [0, -1]
