from __future__ import annotations

import errno
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from dp_ros.cli.main import main
from dp_ros.data.episode_writer import EpisodeWriter
from dp_ros.data.health import check_recording
from dp_ros.data.replay_buffer import ReplayBuffer
from dp_ros.data.windows import Demonstrations, cut_windows, load_demonstrations, split_episodes
from dp_ros.errors import UserError
from dp_ros.task import TaskSpec, load_task
from test.data.recorded import random_episode, small_task

TASK = load_task("pusht_state")


def record(path: Path, lengths: list[int], task: TaskSpec = TASK) -> Path:
    with EpisodeWriter(path, task) as writer:
        for seed, length in enumerate(lengths):
            for step in random_episode(task, length, seed):
                writer.add(step)
            writer.save()
    return path


def numbered(lengths: list[int]) -> Demonstrations:
    """Episodes in which every value of a row is the row's number."""
    n = sum(lengths)
    rows = np.arange(n, dtype=np.float32)
    arrays = {"keypoint": np.repeat(rows[:, None], 18, 1), "agent_pos": np.repeat(rows[:, None], 2, 1)}
    return Demonstrations({**arrays, "action": arrays["agent_pos"]}, np.cumsum(lengths), "")


def test_windows_begin_before_the_episode_and_end_after_it_by_repeating_rows() -> None:
    windows = cut_windows(numbered([20]), TASK, [0])
    assert windows.actions[0, :, 0].tolist() == [0, *range(15)]
    assert windows.observations["agent_pos"][0, :, 0].tolist() == [0, 0]
    assert windows.actions[1, :, 0].tolist() == list(range(16))
    assert windows.actions[-1, :, 0].tolist() == [18, *[19] * 15]
    assert windows.observations["keypoint"][-1, :, 0].tolist() == [18, 19]


def test_every_row_is_now_once() -> None:
    """The last rows too: the final alignment is seen from close by."""
    windows = cut_windows(numbered([20, 1, 5]), TASK, [0, 1, 2])
    assert windows.observations["agent_pos"][:, -1, 0].tolist() == list(range(26))


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=5), data=st.data())
def test_no_window_reaches_into_another_episode(lengths: list[int], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(range(len(lengths))), unique=True))
    windows = cut_windows(numbered(lengths), TASK, chosen)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    episode = np.searchsorted(np.cumsum(lengths), windows.actions[:, :, 0], side="right")
    assert (episode == episode[:, :1]).all()
    assert set(np.unique(episode)) == set(chosen)
    for i in chosen:
        mine = windows.actions[episode[:, 0] == i]
        assert set(mine.ravel()) == set(range(starts[i], starts[i + 1])), "every row is learnt from"


def test_the_observed_rows_are_the_first_predicted_ones() -> None:
    windows = cut_windows(numbered([30, 25]), TASK, [0, 1])
    assert np.array_equal(windows.observations["agent_pos"], windows.actions[:, :2])


def test_an_episode_is_either_trained_on_or_held_out() -> None:
    training, held_out = split_episodes(100, 0.1, seed=3)
    assert sorted(training + held_out) == list(range(100))
    assert len(held_out) == 10
    assert split_episodes(100, 0.1, seed=3) == (training, held_out)
    assert split_episodes(100, 0.1, seed=4) != (training, held_out)


@pytest.mark.parametrize(
    ("n", "share", "n_held_out"), [(1, 0.5, 0), (2, 0.01, 1), (10, 0.0, 0), (3, 0.99, 2)]
)
def test_something_is_always_left_to_train_on(n: int, share: float, n_held_out: int) -> None:
    training, held_out = split_episodes(n, share, seed=0)
    assert len(held_out) == n_held_out
    assert len(training) == n - n_held_out > 0


def test_a_recording_is_read_as_it_was_written(tmp_path: Path) -> None:
    demonstrations = load_demonstrations(record(tmp_path / "x.zarr", [16, 9]), TASK)
    assert demonstrations.n_episodes == 2
    assert demonstrations.n_steps == 25
    assert set(demonstrations.arrays) == {"keypoint", "agent_pos", "action"}
    steps = random_episode(TASK, 9, 1)
    assert np.array_equal(demonstrations.arrays["action"][16:], np.float32([s["action"] for s in steps]))
    assert len(demonstrations.digest) == 64


def test_a_recording_without_a_task_is_judged_by_its_streams(tmp_path: Path) -> None:
    root = zarr.open_group(str(tmp_path / "other.zarr"), mode="w", zarr_format=2)
    for key, dim in (("keypoint", 18), ("agent_pos", 2), ("action", 2)):
        root.create_array(f"data/{key}", data=np.random.default_rng(dim).normal(size=(16, dim)))
    root.create_array("meta/episode_ends", data=np.array([16]))
    demonstrations = load_demonstrations(tmp_path / "other.zarr", TASK)
    assert demonstrations.arrays["action"].dtype == np.float32


def test_an_empty_recording_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no episodes; record some with `dp-ros collect`"):
        load_demonstrations(record(tmp_path / "x.zarr", []), TASK)


def test_a_recording_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere.zarr: is not there"):
        load_demonstrations(tmp_path / "nowhere.zarr", TASK)


def test_another_tasks_recording_is_refused_with_what_differs(tmp_path: Path) -> None:
    slower = TASK.model_copy(update={"rate_hz": 5.0})
    with pytest.raises(
        UserError, match=r"differs from task pusht_state in:\n  rate_hz: recorded with 5.0, given 10"
    ):
        load_demonstrations(record(tmp_path / "x.zarr", [20], slower), TASK)
    with pytest.raises(UserError, match="was recorded for task small"):
        load_demonstrations(record(tmp_path / "y.zarr", [20], small_task()), TASK)


def test_only_the_description_and_the_limits_may_differ(tmp_path: Path) -> None:
    path = record(tmp_path / "x.zarr", [20], TASK.model_copy(update={"description": "another"}))
    assert load_demonstrations(path, TASK).n_episodes == 1
    limits = TASK.action.limits.model_copy(update={"velocity": [100.0, 100.0]})
    slower = TASK.model_copy(update={"action": TASK.action.model_copy(update={"limits": limits})})
    path = record(tmp_path / "y.zarr", [20], slower)
    assert load_demonstrations(path, TASK).n_episodes == 1


def labelled_task() -> TaskSpec:
    """`small_task` with a further stream, which a policy for `small_task` does not observe."""
    task = small_task(name="small_labelled").model_dump(mode="json")
    task["observations"]["label"] = {**task["observations"]["pose"], "topic": "/label"}
    return TaskSpec.from_dict(task)


def test_a_recording_may_hold_more_than_the_task_observes(tmp_path: Path) -> None:
    path = record(tmp_path / "x.zarr", [20], labelled_task())
    assert set(load_demonstrations(path, small_task()).arrays) == {"pose", "camera", "action"}
    with pytest.raises(UserError, match="differs from task small in:\n  rate_hz"):
        load_demonstrations(path, small_task(rate_hz=5))
    with pytest.raises(UserError, match="was recorded for task small, which differs"):
        load_demonstrations(record(tmp_path / "y.zarr", [20], small_task()), labelled_task())


def test_labels_come_with_the_observations(tmp_path: Path) -> None:
    path = record(tmp_path / "x.zarr", [20], labelled_task())
    windows = cut_windows(load_demonstrations(path, small_task(), labels=["label"]), small_task(), [0])
    observations, _ = windows.at(np.array([3]))
    assert list(observations) == ["pose", "camera", "label"]
    wanted = [step["label"] for step in random_episode(labelled_task(), 20, 0)[2:4]]
    assert np.array_equal(observations["label"][0], np.float32(wanted))
    assert windows.values("label").shape == (20, 3)


def test_a_label_that_was_not_recorded_or_is_a_picture_is_refused(tmp_path: Path) -> None:
    path = record(tmp_path / "x.zarr", [20], small_task())
    with pytest.raises(UserError, match="has no data/label, which network.vision.predicts names; it has"):
        load_demonstrations(path, small_task(), labels=["label"])
    with pytest.raises(UserError, match=r"data/camera, .* is uint8 of shape \[96, 101, 3\] a step, expected"):
        load_demonstrations(path, small_task(), labels=["camera"])


def foreign(path: Path, **arrays: np.ndarray) -> Path:
    """A recording that does not say what its task is."""
    root = zarr.open_group(str(path), mode="w", zarr_format=2)
    for key, values in arrays.items():
        root.create_array(f"data/{key}", data=values)
    root.create_array("meta/episode_ends", data=np.array([16, 20]))
    return path


RANDOM = np.random.default_rng(0)
GOOD = {key: RANDOM.normal(size=(20, n)) for key, n in (("keypoint", 18), ("agent_pos", 2), ("action", 2))}


def test_a_missing_stream_is_named(tmp_path: Path) -> None:
    rest = {key: value for key, value in GOOD.items() if key != "agent_pos"}
    with pytest.raises(
        UserError, match=r"has no data/agent_pos, which the task needs; it has action, keypoint"
    ):
        load_demonstrations(foreign(tmp_path / "x.zarr", **rest), TASK)


def test_another_shape_is_refused(tmp_path: Path) -> None:
    path = foreign(tmp_path / "x.zarr", **{**GOOD, "keypoint": np.ones((20, 9, 2))})
    with pytest.raises(UserError, match=r"data/keypoint has shape \[9, 2\] a step, the task says \[18\]"):
        load_demonstrations(path, TASK)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_located(tmp_path: Path, value: float) -> None:
    agent_pos = GOOD["agent_pos"].copy()
    agent_pos[17, 1] = value
    path = foreign(tmp_path / "x.zarr", **{**GOOD, "agent_pos": agent_pos})
    with pytest.raises(
        UserError, match=r"data/agent_pos is not finite in 1 row\(s\), first in row 17 \(episode 1\)"
    ):
        load_demonstrations(path, TASK)


def test_values_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    path = foreign(tmp_path / "x.zarr", **{**GOOD, "action": np.ones((20, 2), bool)})
    with pytest.raises(UserError, match="data/action is bool, expected numbers"):
        load_demonstrations(path, TASK)


def test_a_batch_is_taken_from_the_rows_and_holds_no_other() -> None:
    windows = cut_windows(numbered([20, 25]), TASK, [0, 1])
    observations, actions = windows.at(np.array([44, 3]))
    assert actions[:, :, 0].tolist() == [[43, *[44] * 15], list(range(2, 18))]
    assert observations["keypoint"].shape == (2, 2, 18)
    assert observations["keypoint"][:, :, 0].tolist() == [[43, 44], [2, 3]]
    assert windows.sample_bytes == 4 * (2 * (18 + 2) + 16 * 2)


def test_normalisation_is_made_for_the_rows_of_the_windows_alone() -> None:
    assert cut_windows(numbered([20, 25]), TASK, [1]).values("action")[:, 0].tolist() == list(range(20, 45))


def test_windows_of_pictures_copy_nothing_until_a_batch_is_taken() -> None:
    task = small_task()
    camera = np.zeros((40, 96, 101, 3), np.uint8)
    camera.flags.writeable = False
    arrays = {
        "camera": camera,
        "pose": np.zeros((40, 3), np.float32),
        "action": np.zeros((40, 2), np.float32),
    }
    tracemalloc.start()
    windows = cut_windows(Demonstrations(arrays, np.array([40]), ""), task, [0])
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < camera[0].nbytes
    assert windows.at(np.array([5]))[0]["camera"].shape == (1, 2, 96, 101, 3)


def test_pictures_beyond_the_given_memory_are_mapped_from_a_file_beside(tmp_path: Path) -> None:
    task = small_task()
    path = record(tmp_path / "x.zarr", [20], task)
    kept = load_demonstrations(path, task).arrays["camera"]
    mapped = load_demonstrations(path, task, image_memory_mb=0.1).arrays["camera"]
    assert not isinstance(kept, np.memmap) and isinstance(mapped, np.memmap)
    assert np.array_equal(kept, mapped)
    first = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob(".x.zarr.camera.*.npy")}
    assert len(first) == 1
    load_demonstrations(path, task, image_memory_mb=0.1)
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.glob(".x.zarr.camera.*")} == first, "made once"
    record(path, [18], task)
    longer = load_demonstrations(path, task, image_memory_mb=0.1).arrays["camera"]
    assert len(longer) == 38 and np.array_equal(longer[:20], mapped)
    assert len(list(tmp_path.glob(".x.zarr.camera.*"))) == 1, "the file of what it was is gone"


def test_a_folder_without_room_for_the_mapped_pictures_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = record(tmp_path / "x.zarr", [20], small_task())

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("dp_ros.data.frames._unpack", full)
    with pytest.raises(
        UserError, match=r"npy: cannot be written \(No space left on device\).*0.0 GB. Make room"
    ):
        load_demonstrations(path, small_task(), image_memory_mb=0.1)


def test_a_window_longer_than_any_episode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"its longest episode has 15 steps, .* has 16 \(horizon\); record longer"
    ):
        load_demonstrations(record(tmp_path / "x.zarr", [15, 9]), TASK)


def test_a_dimension_that_never_changes_is_refused_by_name(tmp_path: Path) -> None:
    stuck = {key: values.copy() for key, values in GOOD.items()}
    stuck["agent_pos"][:, 1] = 7.0
    with pytest.raises(
        UserError, match=r"data/agent_pos never changes in 1 of 2 .*: position of agent_y = 7\. Ch"
    ):
        load_demonstrations(foreign(tmp_path / "x.zarr", **stuck), TASK)
    stuck = {key: values.copy() for key, values in GOOD.items()}
    stuck["action"][:, 0] = 0.0
    with pytest.raises(
        UserError, match=r"data/action never changes.*: agent_x = 0\..*out of action.names and"
    ):
        load_demonstrations(foreign(tmp_path / "y.zarr", **stuck), TASK)


def test_a_label_that_never_changes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.zarr"
    with EpisodeWriter(path, labelled_task()) as writer:
        for step in random_episode(labelled_task(), 20, 0):
            writer.add({**step, "label": [0.5, step["label"][1], step["label"][2]]})
        writer.save()
    with pytest.raises(
        UserError, match=r"label never changes in 1 of 3 .*: position of a = 0\.5.*predicts=null"
    ):
        load_demonstrations(path, small_task(), labels=["label"])
    assert load_demonstrations(path, small_task()).n_episodes == 1


@pytest.fixture(scope="module")
def two_chunks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording whose actions lie in two chunks of 4096 rows."""
    with EpisodeWriter(tmp_path_factory.mktemp("two") / "x.zarr", TASK) as writer:
        for length in (4000, 200, 10):
            for step in random_episode(TASK, length, length):
                writer.add(step)
            writer.save()
    return writer.path


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_a_recording_of_ours_that_lacks_a_chunk_is_refused_wherever_it_is_read(
    two_chunks: Path, tmp_path: Path, packed: bool
) -> None:
    """zarr would read zeros."""
    path = shutil.copytree(two_chunks, tmp_path / "x.zarr")
    (path / "data" / "action" / "1.0").unlink()
    if packed:
        path = Path(shutil.make_archive(str(tmp_path / "x"), "zip", path))
    reason = (
        r"data/action lacks 1 chunk\(s\) of its rows, first that of rows 4096 to 4209: .* by half\. Restore it from "
        r"a copy, or .*\(1 to 2\): dp-ros data drop .*x\.z[a-z]+ 1:3 --out NEW.zarr"
    )
    with pytest.raises(UserError, match=reason):
        load_demonstrations(path, TASK)
    buffer = ReplayBuffer.open(path)
    for read in (
        check_recording,
        ReplayBuffer.digest,
        lambda it: it.episode(2),
        lambda it: it.stored_episode(1),
    ):
        with pytest.raises(UserError, match=r"data/action lacks 1 chunk\(s\)"):
            read(buffer)
    assert len(buffer.episode(0)["action"]) == 4000, "what is there can be saved"
    assert main(["data", "drop", str(path), "1:3", "--out", str(tmp_path / "rest.zarr")]) == 0
    assert load_demonstrations(tmp_path / "rest.zarr", TASK).n_episodes == 1


def test_chunks_are_missing_only_where_a_recorder_did_not_go_on_since(
    two_chunks: Path, tmp_path: Path
) -> None:
    path = shutil.copytree(two_chunks, tmp_path / "x.zarr")
    chunk = path / "data" / "action" / "1.0"
    content = chunk.read_bytes()
    chunk.unlink()
    buffer = ReplayBuffer.open(path)
    assert buffer.missing_chunks("action") == [(4096, 4210)]
    assert buffer.missing_chunks("action", 0, 4096) == []
    assert buffer.missing_chunks("keypoint") == []
    chunk.write_bytes(content)
    assert buffer.missing_chunks("action") == []


def test_a_recording_of_others_may_leave_chunks_out_which_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for separator in ".", "/":
        path = foreign(
            tmp_path / f"{ord(separator)}.zarr", keypoint=GOOD["keypoint"], agent_pos=GOOD["agent_pos"]
        )
        action = zarr.open_group(str(path), mode="a").create_array(
            "data/action",
            shape=(20, 2),
            chunks=(8, 1),
            dtype="f8",
            chunk_key_encoding={"name": "v2", "separator": separator},
        )
        action[:] = GOOD["action"]
        caplog.clear()
        load_demonstrations(path, TASK)
        assert caplog.messages == []
        action[8:16, 1] = 0.0
        assert len(list((path / "data" / "action").rglob(f"1{separator}*"))) == 1, "zarr leaves zeros out"
        load_demonstrations(path, TASK)
        (said,) = caplog.messages
        assert (
            "data/action lacks 1 chunk(s), first that of rows 8 to 15, and its fill value is read there"
            in said
        )


@pytest.mark.parametrize(("apart_s", "refused"), [(0.1, False), (0.11, False), (0.05, True), (0.0, True)])
def test_steps_at_another_rate_are_refused(tmp_path: Path, apart_s: float, refused: bool) -> None:
    timestamp = np.concatenate([np.arange(16) * apart_s, 5000 + np.arange(4) * apart_s])
    path = foreign(tmp_path / "x.zarr", **GOOD, timestamp=timestamp)
    if not refused:
        assert load_demonstrations(path, TASK).n_episodes == 2
        return
    with pytest.raises(
        UserError, match=r"its steps are .* s apart \(.*\), task pusht_state says 10 Hz; set rate_hz"
    ):
        load_demonstrations(path, TASK)
