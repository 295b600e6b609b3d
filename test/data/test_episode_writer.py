from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from dp_ros.data import durable_store, episode_index, episode_writer, new_recording
from dp_ros.data.episode_writer import EpisodeWriter, set_aside_path
from dp_ros.data.layout import EPISODE_ENDS, EPISODE_INFO, EPISODE_SUCCESS
from dp_ros.data.lock import RecordingError
from dp_ros.data.replay_buffer import ReplayBuffer
from dp_ros.data.stored_pictures import PictureStorage
from test.data.recorded import random_episode, small_task

TASK = small_task()


def write(path: Path, lengths: list[int], first_seed: int = 0) -> None:
    with EpisodeWriter(path, TASK) as writer:
        for seed, length in enumerate(lengths, start=first_seed):
            add_all(writer, random_episode(TASK, length, seed))
            writer.save(seed)


def add_all(writer: EpisodeWriter, steps: list[dict[str, Any]]) -> None:
    for step in steps:
        writer.add(step)


def assert_holds(buffer: ReplayBuffer, lengths: list[int], first_seed: int = 0) -> None:
    assert buffer.episode_ends.tolist() == np.cumsum(lengths).tolist()
    for index, length in enumerate(lengths):
        expected = random_episode(TASK, length, first_seed + index)
        for key, rows in buffer.episode(index).items():
            np.testing.assert_array_equal(rows, np.stack([s[key] for s in expected]).astype(rows.dtype), key)


def test_episodes_come_back_as_they_were_added(tmp_path: Path) -> None:
    write(tmp_path / "x.zarr", [7, 1, 12])
    buffer = ReplayBuffer.open(tmp_path / "x.zarr")
    assert_holds(buffer, [7, 1, 12])
    assert buffer.episode_seeds.tolist() == [0, 1, 2]
    assert {key: (buffer[key].shape, buffer[key].dtype.str) for key in buffer} == {
        "action": ((20, 2), "<f4"),
        "camera": ((20, 96, 101, 3), "|u1"),
        "pose": ((20, 3), "<f4"),
        "timestamp": ((20,), "<f8"),
    }
    assert buffer.task is not None and buffer.task.digest() == TASK.digest()
    assert buffer.attrs["task_digest"] == TASK.digest()


def test_stock_zarr_reads_the_reference_layout(tmp_path: Path) -> None:
    write(tmp_path / "x.zarr", [7, 5])
    root = zarr.open(str(tmp_path / "x.zarr"), mode="r")
    assert isinstance(root, zarr.Group)
    assert root.metadata.zarr_format == 2
    assert root["meta/episode_ends"][:].tolist() == [7, 12]
    assert root["meta/episode_ends"].dtype == np.int64
    assert all(array.shape[0] == 12 for _, array in root["data"].arrays())
    np.testing.assert_array_equal(root["data/camera"][6], random_episode(TASK, 7, 0)[6]["camera"])


@pytest.mark.parametrize(
    ("storage", "camera"),
    [({}, "blosc"), ({"jpeg_quality": 90}, "imagecodecs_jpeg"), ({"video_crf": 20}, "dp_ros_video")],
)
def test_what_is_on_the_disk_is_what_zarr_2_knows(
    tmp_path: Path, storage: dict[str, int], camera: str
) -> None:
    """The names and values of zarr's format 2; `benchmarks/zarr2_reader.py` reads it with zarr 2 itself."""
    path = tmp_path / "x.zarr"
    with EpisodeWriter(path, TASK, storage=PictureStorage(**storage)) as writer:
        for seed, length in enumerate((20, 3)):
            add_all(writer, random_episode(TASK, length, seed))
            writer.save(success=True, info={"operator": "anna"})
        writer.delete_last()
    assert not list(path.rglob("zarr.json"))
    for folder in (path, path / "data", path / "meta"):
        assert json.loads((folder / ".zgroup").read_text()) == {"zarr_format": 2}
    keys = {"zarr_format", "shape", "chunks", "dtype", "compressor", "fill_value", "order", "filters"}
    for file in path.rglob(".zarray"):
        said = json.loads(file.read_text())
        assert set(said) - {"dimension_separator"} == keys, file
        assert said["zarr_format"] == 2 and said["order"] == "C" and said["filters"] is None
        assert said.get("dimension_separator", ".") == "." and said["fill_value"] == 0
        assert said["dtype"] in ("<f4", "<f8", "<i8", "|u1")
        codec = None if said["compressor"] is None else said["compressor"]["id"]
        name = file.parent.relative_to(path).as_posix()
        assert codec == (
            None if name.startswith("meta/") else camera if name == "data/camera" else "blosc"
        ), name
        chunks = [part.name for part in file.parent.iterdir() if not part.name.startswith(".z")]
        n_chunks = -(-said["shape"][0] // said["chunks"][0])
        assert sorted(chunks) == sorted(
            ".".join([str(k)] + ["0"] * (len(said["shape"]) - 1)) for k in range(n_chunks)
        )


def test_appending_in_a_second_run_keeps_what_was_there(tmp_path: Path) -> None:
    write(tmp_path / "x.zarr", [7, 5])
    write(tmp_path / "x.zarr", [3, 9], first_seed=2)
    assert_holds(ReplayBuffer.open(tmp_path / "x.zarr"), [7, 5, 3, 9])


def test_more_episodes_than_one_chunk_of_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (episode_index, new_recording):
        monkeypatch.setattr(module, "META_CHUNK_ROWS", 2)
    lengths = [1, 2, 1, 3, 1]
    write(tmp_path / "x.zarr", lengths)
    buffer = ReplayBuffer.open(tmp_path / "x.zarr")
    assert_holds(buffer, lengths)
    assert buffer.episode_seeds.tolist() == [0, 1, 2, 3, 4]


def test_discarded_and_unsaved_episodes_leave_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "x.zarr"
    with EpisodeWriter(path, TASK) as writer:
        add_all(writer, random_episode(TASK, 4, 9))
        assert writer.discard() == 4
        assert writer.n_steps == 0
        add_all(writer, random_episode(TASK, 7, 0))
        writer.save()
        add_all(writer, random_episode(TASK, 4, 9))
    buffer = ReplayBuffer.open(path)
    assert_holds(buffer, [7])
    assert buffer.unfinished_steps == 0


def test_an_episode_that_outgrows_memory_goes_to_the_disk_and_is_still_all_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(episode_writer, "_FLUSH_BYTES", 100_000)
    path = tmp_path / "x.zarr"
    write(path, [7])
    with EpisodeWriter(path, TASK) as writer:
        add_all(writer, random_episode(TASK, 11, 1))
        during = ReplayBuffer.open(path)
        assert (during.n_episodes, during.n_steps, during["pose"].shape) == (1, 7, (7, 3))
        assert during.unfinished_steps > 0
        writer.discard()
        assert ReplayBuffer.open(path).unfinished_steps == 0
        add_all(writer, random_episode(TASK, 5, 1))
        writer.save()
    assert_holds(ReplayBuffer.open(path), [7, 5])


def test_what_was_left_unfinished_is_set_aside_and_never_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(episode_writer, "_FLUSH_BYTES", 200_000)
    path = tmp_path / "x.zarr"
    write(path, [7])
    killed = EpisodeWriter(path, TASK)
    add_all(killed, random_episode(TASK, 11, 1))
    on_disk = ReplayBuffer.open(path).unfinished_steps
    assert 0 < on_disk < 11
    _abandon(killed)
    with EpisodeWriter(path, TASK) as writer:
        assert (writer.recovered_steps, writer.set_aside_steps) == (on_disk, on_disk)
        assert str(set_aside_path(path)) in writer.recovery
    assert_holds(ReplayBuffer.open(path), [7])
    aside = ReplayBuffer.open(set_aside_path(path))
    assert aside.episode_info == [{"set_aside": "unfinished"}]
    expected = random_episode(TASK, 11, 1)[:on_disk]
    np.testing.assert_array_equal(aside["camera"], np.stack([step["camera"] for step in expected]))
    with EpisodeWriter(path, TASK) as writer:
        assert writer.recovery == ""
    assert ReplayBuffer.open(set_aside_path(path)).n_episodes == 1


def test_rows_that_were_not_written_in_full_are_not_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at each write of a flush: what is set aside is what was recorded, never zeros."""
    monkeypatch.setattr(episode_writer, "_FLUSH_BYTES", 200_000)
    path, call, kept = tmp_path / "x.zarr", 0, set()
    expected = random_episode(TASK, 7, 1)
    while True:
        call += 1
        killed = EpisodeWriter(path, TASK)
        with monkeypatch.context() as patch:
            calls = _stop_at(patch, call, _Stopped())
            with contextlib.suppress(_Stopped):
                add_all(killed, expected)
            passed = calls() < call
        _abandon(killed)
        with EpisodeWriter(path, TASK) as writer:
            kept.add(writer.set_aside_steps)
        if passed:
            break
    aside = ReplayBuffer.open(set_aside_path(path))
    assert 0 in kept and len(kept) > 1
    for index in range(aside.n_episodes):
        for key, rows in aside.episode(index).items():
            want = np.stack([step[key] for step in expected[: len(rows)]]).astype(rows.dtype)
            np.testing.assert_array_equal(rows, want, key)


def test_a_deleted_episode_is_kept_beside_the_recording(tmp_path: Path) -> None:
    path = tmp_path / "x.zarr"
    write(path, [7])
    with EpisodeWriter(path, TASK) as writer:
        with pytest.raises(RecordingError, match="1 steps are in progress"):
            add_all(writer, random_episode(TASK, 1, 1))
            writer.delete_last()
        writer.discard()
        add_all(writer, random_episode(TASK, 5, 1))
        writer.save(4, success=True, info={"operator": "anna"})
        assert writer.delete_last() == 1
        assert_holds(ReplayBuffer.open(path), [7])
        add_all(writer, random_episode(TASK, 3, 1))
        writer.save(8)
        assert writer.delete_last() == 1
        assert writer.delete_last() == 0
        with pytest.raises(RecordingError, match="no episode is there to delete"):
            writer.delete_last()
    assert ReplayBuffer.open(path).unfinished_steps == 0
    aside = ReplayBuffer.open(set_aside_path(path))
    assert np.diff(aside.episode_ends, prepend=0).tolist() == [5, 3, 7]
    assert aside.episode_seeds.tolist() == [4, 8, 0]
    assert aside.episode_success.tolist() == [1, -1, -1]
    assert aside.episode_info[0] == {"operator": "anna", "set_aside": "deleted"}


@pytest.mark.timeout(300)  # a recording for each of its writes
def test_deleting_stopped_at_any_write_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tmp_path / "before.zarr"
    write(before, [7, 5])
    call, deleted = 0, set()
    while True:
        call += 1
        path = shutil.copytree(before, tmp_path / str(call) / "x.zarr")
        writer = EpisodeWriter(path, TASK)
        with monkeypatch.context() as patch:
            calls = _stop_at(patch, call, _Stopped())
            with contextlib.suppress(_Stopped):
                writer.delete_last()
            passed = calls() < call
        _abandon(writer)
        lengths = [7, 5][: ReplayBuffer.open(path).n_episodes]
        deleted.add(len(lengths))
        assert_holds(ReplayBuffer.open(path), lengths)
        if len(lengths) == 1:
            assert_holds(ReplayBuffer.open(set_aside_path(path)), [5], first_seed=1)
        if passed:
            break
    assert deleted == {1, 2}


def test_what_is_said_of_an_episode_belongs_to_it(tmp_path: Path) -> None:
    path = tmp_path / "x.zarr"
    write(path, [2])
    with EpisodeWriter(path, TASK) as writer:
        for success, info in ((True, {"operator": "anna"}), (None, {}), (False, {"instruction": "push"})):
            add_all(writer, random_episode(TASK, 2, 0))
            writer.save(success=success, info=info)
        writer.delete_last()
        add_all(writer, random_episode(TASK, 2, 0))
        writer.save()
    buffer = ReplayBuffer.open(path)
    assert buffer.episode_success.tolist() == [-1, 1, -1, -1]
    assert buffer.episode_info == [{}, {"operator": "anna"}, {}, {}]
    assert zarr.open(str(path), mode="r")["meta/episode_success"][:].tolist() == [-1, 1, -1, -1]


def test_a_recording_of_an_older_version_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (episode_index, new_recording):
        monkeypatch.setattr(module, "META_CHUNK_ROWS", 2)
    path = tmp_path / "x.zarr"
    write(path, [2, 1, 3])
    shutil.rmtree(path / "meta" / EPISODE_SUCCESS)
    assert ReplayBuffer.open(path).episode_success.tolist() == [-1, -1, -1]
    with EpisodeWriter(path, TASK) as writer:
        add_all(writer, random_episode(TASK, 2, 3))
        writer.save(success=True)
    assert ReplayBuffer.open(path).episode_success.tolist() == [-1, -1, -1, 1]
    assert zarr.open(str(path), mode="r")["meta/episode_success"][:].tolist() == [-1, -1, -1, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pose": None}, "step 0: expected action, camera, pose, timestamp; missing pose"),
        ({"extra": 1.0}, "unknown extra"),
        ({"pose": np.zeros(4)}, r"pose: got shape \(4,\), the task says \(3,\)"),
        ({"pose": [0.0, np.nan, 1.0]}, "pose: value 1 is nan, not a finite number"),
        ({"action": [np.inf, 0.0]}, "action: value 0 is inf"),
        ({"timestamp": np.nan}, "timestamp: value 0 is nan"),
        ({"camera": np.zeros((96, 101, 3))}, "camera: got type float64, expected uint8"),
        ({"camera": np.zeros((101, 96, 3), np.uint8)}, r"camera: got shape \(101, 96, 3\)"),
        ({"pose": ["a", "b", "c"]}, "pose: got type <U1, expected float32"),
    ],
)
def test_a_step_that_does_not_fit_the_task_is_refused_and_changes_nothing(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    good = random_episode(TASK, 1, 0)[0]
    bad = {key: value for key, value in {**good, **change}.items() if value is not None}
    with EpisodeWriter(tmp_path / "x.zarr", TASK) as writer:
        with pytest.raises(RecordingError, match=message):
            writer.add(bad)
        assert writer.n_steps == 0
        writer.add(good)
        assert writer.save() == 0
    assert_holds(ReplayBuffer.open(tmp_path / "x.zarr"), [1])


def test_a_step_is_copied_so_that_its_arrays_can_be_reused(tmp_path: Path) -> None:
    step = {**random_episode(TASK, 1, 0)[0], "pose": np.zeros(3, np.float32)}
    with EpisodeWriter(tmp_path / "x.zarr", TASK) as writer:
        writer.add(step)
        step["pose"] += 1
        writer.save()
    assert ReplayBuffer.open(tmp_path / "x.zarr")["pose"].tolist() == [[0, 0, 0]]


def test_saving_nothing_is_refused(tmp_path: Path) -> None:
    with (
        EpisodeWriter(tmp_path / "x.zarr", TASK) as writer,
        pytest.raises(RecordingError, match="no step was recorded"),
    ):
        writer.save()


def test_a_recording_of_another_task_is_not_appended_to(tmp_path: Path) -> None:
    write(tmp_path / "x.zarr", [3])
    with pytest.raises(RecordingError, match="of task small .* not of small .*: rate_hz differ"):
        EpisodeWriter(tmp_path / "x.zarr", small_task(rate_hz=20))
    EpisodeWriter(tmp_path / "x.zarr", small_task(description="other words, same facts")).close()
    assert_holds(ReplayBuffer.open(tmp_path / "x.zarr"), [3])


def test_files_of_others_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("mine")
    other = zarr.open_group(str(tmp_path / "other.zarr"), mode="w", zarr_format=2)
    other.create_array("data/x", data=np.arange(3))
    other.create_array("meta/episode_ends", data=np.array([3]))
    for name, message in [
        ("file", "is a file"),
        ("folder", "no zarr v2 group"),
        ("other.zarr", "format None"),
    ]:
        with pytest.raises(ValueError, match=message):
            EpisodeWriter(tmp_path / name, TASK)
    assert (tmp_path / "file").read_text() == "mine"
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["notes.txt"]


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RecordingError, match="x.zarr: cannot be created"):
        EpisodeWriter(tmp_path / "file" / "x.zarr", TASK)


def test_only_one_writer_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "x.zarr"
    with EpisodeWriter(path, TASK), pytest.raises(RecordingError, match="another process is recording"):
        EpisodeWriter(path, TASK)
    EpisodeWriter(path, TASK).close()


class _Stopped(BaseException):
    """Stands for the end of the process or a Ctrl-C: nothing in the writer handles it."""


def _stop_at(monkeypatch: pytest.MonkeyPatch, call: int, error: BaseException) -> Callable[[], int]:
    """Raise `error` at the `call`-th flush or rename, of which each write has one; returns a counter."""
    count = 0

    def counted(name: str) -> None:
        real = getattr(os, name)

        def stand_in(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == call:
                raise error
            return real(*args, **kwargs)

        monkeypatch.setattr(durable_store.os, name, stand_in)

    counted("fsync")
    counted("replace")
    return lambda: count


def _abandon(writer: EpisodeWriter) -> None:
    """What the kernel does when a process ends: the lock goes, nothing else happens."""
    assert writer._lock is not None
    os.close(writer._lock)
    writer._lock = None


def test_stopped_at_any_write_every_committed_episode_is_intact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saves are cut short at the first write, the second, and so on, until one gets through."""
    path = tmp_path / "x.zarr"
    lengths = [7]
    write(path, lengths)
    call = 0
    committed_late = 0
    while True:
        call += 1
        writer = EpisodeWriter(path, TASK)
        add_all(writer, random_episode(TASK, 5, len(lengths)))
        with monkeypatch.context() as patch:
            calls = _stop_at(patch, call, _Stopped())
            with contextlib.suppress(_Stopped):
                writer.save()
            passed = calls() < call
        _abandon(writer)
        buffer = ReplayBuffer.open(path)
        assert buffer.n_episodes in (len(lengths), len(lengths) + 1)
        if buffer.n_episodes > len(lengths):
            lengths.append(5)
            committed_late += not passed
        assert_holds(buffer, lengths)
        with EpisodeWriter(path, TASK) as again:
            assert again.recovered_steps == buffer.unfinished_steps
        assert ReplayBuffer.open(path).unfinished_steps == 0
        assert not list(path.rglob("*.partial"))
        if passed:
            break
    assert call > 20
    assert committed_late == 1  # stopped after the last rename, while flushing the folder


def test_a_full_disk_keeps_the_episode_so_that_saving_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.zarr"
    write(path, [7])
    with EpisodeWriter(path, TASK) as writer:
        add_all(writer, random_episode(TASK, 5, 1))
        for call in (1, 4, 8, 12):
            with monkeypatch.context() as patch:
                _stop_at(patch, call, OSError(28, "No space left on device"))
                with pytest.raises(RecordingError, match="No space left on device; the episode is kept"):
                    writer.save()
            assert writer.n_steps == 5
        writer.save()
        assert_holds(ReplayBuffer.open(path), [7, 5])


def test_discarding_after_an_interrupted_save_takes_the_episode_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.zarr"
    write(path, [7])
    call = 0
    while True:
        call += 1
        with monkeypatch.context() as patch, EpisodeWriter(path, TASK) as writer:
            add_all(writer, random_episode(TASK, 5, 1))
            _stop_at(patch, call, _Stopped())
            try:
                writer.save()
                break
            except _Stopped:
                writer.discard()
        assert_holds(ReplayBuffer.open(path), [7])
    assert call > 20


def test_an_interrupted_save_stands_if_readers_could_have_seen_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.zarr"
    write(path, [7])
    count = 0

    def stop_after_the_last_rename(folder: Path) -> None:
        nonlocal count
        count += folder.name == EPISODE_ENDS
        if count == 2:  # values, then their number
            raise _Stopped

    with contextlib.suppress(_Stopped), EpisodeWriter(path, TASK) as writer:
        add_all(writer, random_episode(TASK, 5, 1))
        monkeypatch.setattr(durable_store, "sync_folder", stop_after_the_last_rename)
        writer.save()
    monkeypatch.undo()
    assert_holds(ReplayBuffer.open(path), [7, 5])
    write(path, [3], first_seed=2)
    assert_holds(ReplayBuffer.open(path), [7, 5, 3])


KILLED = """
import os, sys, time
import numpy as np
from dp_ros.data import episode_writer
from dp_ros.data.episode_writer import EpisodeWriter
from dp_ros.data.stored_pictures import PictureStorage
from test.data.recorded import random_episode, small_task
episode_writer._FLUSH_BYTES = 100_000  # an episode is written in several pieces
task, path, draw = small_task(), sys.argv[1], np.random.default_rng(int(sys.argv[2]))
storage = PictureStorage(**{sys.argv[4]: int(sys.argv[5])} if len(sys.argv) > 4 else {})
for kill in range(int(sys.argv[3])):
    told, tell = os.pipe()
    child = os.fork()
    if not child:
        os.close(told)
        write_info = episode_writer.write_info
        episode_writer.write_info = lambda *given: (os.write(tell, b"s"), write_info(*given))
        writer = EpisodeWriter(path, task, storage=storage)
        os.write(tell, b"%d\\n" % writer.n_episodes)
        while True:
            seed = writer.n_episodes
            for step in random_episode(task, 3 + seed % 9, seed):
                writer.add(step)
            writer.save(seed, success=True, info={"nr": str(seed)})
            os.write(tell, b"%d\\n" % writer.n_episodes)
    os.close(tell)
    said = b""
    # It is open, and now and then has saved one, however slow; the kill comes at a random instant of the next episodes.
    while said.count(b"\\n") < (2 if kill % 4 == 3 else 1):
        said += os.read(told, 64)
    if kill % 2:  # of a commit
        while not said.endswith(b"s"):
            said += os.read(told, 64)
    time.sleep(draw.uniform(0.0, 0.01 if kill % 2 else 0.06))
    os.kill(child, 9)
    os.waitpid(child, 0)
    said += b"".join(iter(lambda: os.read(told, 4096), b""))
    os.close(told)
    print(int(said.replace(b"s", b"").split()[-1]), flush=True)
    sys.stdin.readline()
"""


@pytest.mark.timeout(600)  # a few processes a second where others use the machine
@pytest.mark.parametrize(
    ("kills", "storage"),
    [(200, {}), (12, {"jpeg_quality": 90}), (12, {"video_crf": 30})],
    ids=["lossless", "JPEG", "video"],
)
def test_killed_at_random_instants_no_committed_episode_is_lost(
    tmp_path: Path, kills: int, storage: dict[str, int]
) -> None:
    """SIGKILL in the middle of a chunk, of a commit, of the index, of setting an earlier one's tail aside."""
    path, tails, committing = tmp_path / "x.zarr", 0, 0
    given = [part for item in storage.items() for part in map(str, item)]
    command = [sys.executable, "-c", KILLED, str(path), "5", str(kills), *given]
    seen: list[list[bytes]] = []  # content of each episode when it was first there
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        for kill in range(kills):
            told = int(process.stdout.readline())
            buffer = ReplayBuffer.open(path)
            assert buffer.n_episodes in (told, told + 1)
            lengths = [3 + seed % 9 for seed in range(buffer.n_episodes)]
            assert buffer.episode_ends.tolist() == np.cumsum(lengths).tolist()
            tails += buffer.unfinished_steps > 0
            committing += buffer.n_episodes > told or _rows_of_index(path) != {buffer.n_episodes}
            # What a kill can harm lies in the chunks that are written last; now and then all are compared.
            begin = max(len(seen) - 3, 0)
            if kill % 40 == 39 or kill == kills - 1:
                begin, numbers = 0, list(range(buffer.n_episodes))
                assert buffer.episode_seeds.tolist() == numbers
                assert (buffer.episode_success == 1).all()
                assert [info["nr"] for info in buffer.episode_info] == [str(number) for number in numbers]
            rows = _episodes(buffer, begin)
            assert rows[: len(seen) - begin] == seen[begin:]
            seen += rows[len(seen) - begin :]
            process.stdin.write("\n")
            process.stdin.flush()
    assert process.returncode == 0
    assert tails > kills // 10, "hardly any kill came while something was written"
    assert committing > kills // 20, "hardly any kill came while an episode was committed"
    episodes = [random_episode(TASK, 3 + seed % 9, seed) for seed in range(buffer.n_episodes + 1)]
    wanted = [{key: np.stack([step[key] for step in steps]) for key in steps[0]} for steps in episodes]
    if storage:  # what is encoded is lossy, but the same again
        with EpisodeWriter(tmp_path / "again.zarr", TASK, storage=PictureStorage(**storage)) as writer:
            for steps in episodes:
                add_all(writer, steps)
                writer.save()
        again = ReplayBuffer.open(tmp_path / "again.zarr")
        wanted = [again.episode(seed) for seed in range(again.n_episodes)]
    for key in buffer:
        values = np.concatenate([want[key] for want in wanted[: buffer.n_episodes]])
        np.testing.assert_array_equal(buffer[key], values.astype(buffer[key].dtype), key)
    aside = ReplayBuffer.open(set_aside_path(path))
    assert all(info == {"set_aside": "unfinished"} for info in aside.episode_info)
    begins = {want["pose"][0].astype("<f4").tobytes(): want for want in wanted}
    for index in range(aside.n_episodes):
        episode = aside.episode(index)
        for key, rows in episode.items():
            want = begins[episode["pose"][0].tobytes()][key]
            np.testing.assert_array_equal(rows, want[: len(rows)].astype(rows.dtype), key)


def _episodes(buffer: ReplayBuffer, begin: int) -> list[list[bytes]]:
    """Content of the episodes from `begin` on: of each array."""
    bounds = [0, *buffer.episode_ends.tolist()]
    first = bounds[begin]
    arrays = [buffer.rows(key, first, bounds[-1]) for key in buffer]
    spans = zip(bounds[begin:-1], bounds[begin + 1 :], strict=True)
    return [[rows[start - first : stop - first].tobytes() for rows in arrays] for start, stop in spans]


def _rows_of_index(path: Path) -> set[int]:
    """How many episodes each part of the index has: more than one number in the middle of a commit."""
    said = path / "meta" / ".zattrs"
    infos = json.loads(said.read_text()).get(EPISODE_INFO, []) if said.exists() else []
    return {json.loads(file.read_text())["shape"][0] for file in path.glob("meta/*/.zarray")} | {len(infos)}


def test_a_shortened_array_is_reported_and_not_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "x.zarr"
    write(path, [7])
    metadata = path / "data" / "pose" / ".zarray"
    metadata.write_text(json.dumps({**json.loads(metadata.read_text()), "shape": [5, 3]}))
    with pytest.raises(ValueError, match="data/pose has 5 rows but meta/episode_ends says 7"):
        EpisodeWriter(path, TASK)
