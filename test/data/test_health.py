"""Each fault that can be in an episode is found, in that episode and in no other."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from mcap.writer import Writer as McapWriter

from dp_ros.data.episode_writer import EpisodeWriter
from dp_ros.data.health import check_recording
from dp_ros.data.replay_buffer import ReplayBuffer
from dp_ros.data.stored_pictures import PictureStorage
from dp_ros.task import TaskSpec
from test.data.recorded import small_task

TASK = small_task()
N_EPISODES, STEPS = 7, 30
Steps = list[dict[str, Any]]


def smooth_episode(seed: int, steps: int = STEPS) -> Steps:
    """A robot that goes round and a camera that sees it."""
    draw = np.random.default_rng(seed)
    phase = draw.uniform(0, 6)
    found = []
    for k in range(steps):
        angle = phase + 0.1 * k
        found.append(
            {
                "pose": 0.5 * np.array([np.cos(angle), np.sin(angle), np.cos(2 * angle)]),
                "camera": draw.integers(0, 256, (96, 101, 3), dtype=np.uint8),
                "action": 0.5 * np.array([np.cos(angle + 0.1), np.sin(angle + 0.1)]),
                "timestamp": 0.1 * k,
            }
        )
    return found


def recording(path: Path, change: Callable[[Steps], Steps | None], episode: int = 3) -> ReplayBuffer:
    """Episodes of which one is changed."""
    with EpisodeWriter(path, TASK) as writer:
        for seed in range(N_EPISODES):
            steps = smooth_episode(seed)
            if seed == episode:
                steps = change(steps) or steps
            for step in steps:
                writer.add(step)
            writer.save(seed)
    return ReplayBuffer.open(path)


def test_episodes_that_are_well_are_called_so(tmp_path: Path) -> None:
    found = check_recording(recording(tmp_path / "x.zarr", lambda steps: steps))
    assert [episode.verdict for episode in found] == ["ok"] * N_EPISODES, [e.findings for e in found]
    assert [episode.steps for episode in found] == [STEPS] * N_EPISODES
    assert found[0].duration_s == pytest.approx(2.9)


def times(change: Callable[[int], float]) -> Callable[[Steps], None]:
    def apply(steps: Steps) -> None:
        for k, step in enumerate(steps):
            step["timestamp"] = change(k)

    return apply


def frozen(first: int, n: int) -> Callable[[Steps], None]:
    def apply(steps: Steps) -> None:
        for k in range(first, first + n):
            steps[k]["camera"] = steps[first]["camera"]

    return apply


def jump(steps: Steps) -> None:
    for step in steps[15:]:
        step["pose"] = step["pose"] + [0.0, 0.9, 0.0]


def clipped(steps: Steps) -> None:
    for k, step in enumerate(steps[10:18]):
        step["action"] = np.array([1.0, step["action"][1]])
        step["pose"] = step["pose"] + 1e-3 * k
    for step, share in zip(steps[5:10], np.linspace(0, 1, 5), strict=True):  # on its way there without a jump
        step["action"] = np.array([(1 - share) * step["action"][0] + share, step["action"][1]])
    for step, share in zip(steps[18:24], np.linspace(1, 0, 6), strict=True):
        step["action"] = np.array([(1 - share) * step["action"][0] + share, step["action"][1]])


@pytest.mark.parametrize(
    ("change", "kind", "verdict", "message"),
    [
        (times(lambda k: 0.1 * k + (0.4 if k > 12 else 0.0)), "gap", "error", "longest 0.500 s"),
        (times(lambda k: 0.1 * (k - 3 * (k > 20))), "time_order", "error", "first after step 20 (-0.200 s)"),
        (frozen(8, 10), "frozen", "error", "camera shows the same picture for 0.9 s from step 8 on"),
        (frozen(8, 2), "doubled", "warning", "camera has 1 pictures"),
        (jump, "jump", "warning", "pose[1] jumps"),
        (clipped, "clipped", "warning", "action a stays at its limit for 10 steps"),
        (lambda steps: smooth_episode(9, 200), "length", "warning", "length of 200 steps, the others' is 30"),
    ],
    ids=["gap", "order", "frozen", "doubled", "jump", "clipped", "length"],
)
def test_a_fault_is_found_where_it_is(
    change: Callable[[Steps], Any], kind: str, verdict: str, message: str, tmp_path: Path
) -> None:
    found = check_recording(recording(tmp_path / "x.zarr", change))
    assert [episode.verdict for episode in found if episode.index != 3] == ["ok"] * (N_EPISODES - 1)
    assert found[3].verdict == verdict
    assert [finding.kind for finding in found[3].findings][0] == kind
    assert message in found[3].findings[0].message


def test_a_robot_that_stands_still_has_no_frozen_camera(tmp_path: Path) -> None:
    def stand(steps: Steps) -> None:
        for step in steps[5:25]:
            step.update({key: steps[5][key] for key in ("pose", "action", "camera")})

    found = check_recording(recording(tmp_path / "x.zarr", stand))
    assert not any(finding.kind in ("frozen", "doubled") for finding in found[3].findings)


def test_values_that_are_not_finite_are_found_though_no_writer_of_ours_takes_them(tmp_path: Path) -> None:
    recording(tmp_path / "x.zarr", lambda steps: steps)
    zarr.open_group(str(tmp_path / "x.zarr"), mode="r+", zarr_format=2)["data/pose"][3 * STEPS + 4, 1] = (
        np.nan
    )
    found = check_recording(ReplayBuffer.open(tmp_path / "x.zarr"))
    assert [episode.verdict for episode in found] == ["ok"] * 3 + ["error"] + ["ok"] * 3
    assert found[3].findings[0].message == "pose is not finite in 1 steps, first in 4"


@pytest.mark.parametrize("lag", [0, 2, 5])
def test_the_lag_between_commands_and_state_is_told(lag: int, tmp_path: Path) -> None:
    task = TASK.model_dump(mode="json")
    task["observations"]["pose"].update(names=["a", "b"], shape=[2])
    named = small_task(observations=task["observations"])
    with EpisodeWriter(tmp_path / "x.zarr", named) as writer:
        for seed in range(6):
            for k, step in enumerate(smooth_episode(seed, 60)):
                late = (
                    smooth_episode(seed, 1)[0]["pose"]
                    if k < lag
                    else smooth_episode(seed, 60)[k - lag]["action"]
                )
                writer.add({**step, "pose": late[:2]})
            writer.save(seed)
    assert [episode.lag_steps for episode in check_recording(ReplayBuffer.open(tmp_path / "x.zarr"))] == [
        lag
    ] * 6


def named_task(**pose: Any) -> TaskSpec:
    """Whose state has the names of its action."""
    streams = TASK.model_dump(mode="json")["observations"]
    return small_task(observations={"pose": {**streams["pose"], "names": ["a", "b"], "shape": [2], **pose}})


def following(
    task: TaskSpec, path: Path, change: Callable[[int, Steps], None], steps: int = 60
) -> ReplayBuffer:
    """Six episodes of a state that is where it is commanded, changed by number."""
    with EpisodeWriter(path, task) as writer:
        for seed in range(6):
            rows = smooth_episode(seed, steps)
            for row in rows:
                row["pose"] = row["action"].copy()
            change(seed, rows)
            for row in rows:
                writer.add({key: value for key, value in row.items() if key != "camera"})
            writer.save(seed)
    return ReplayBuffer.open(path)


def test_a_state_that_stays_the_same_while_it_is_commanded_elsewhere_is_frozen(tmp_path: Path) -> None:
    def change(seed: int, rows: Steps) -> None:
        for row in rows[20:40]:
            if seed == 2:  # the sensor of one joint
                row["pose"][1] = rows[20]["pose"][1]
            if seed == 4:  # a robot that rests
                row.update(pose=rows[20]["pose"], action=rows[20]["action"])

    found = check_recording(following(named_task(), tmp_path / "x.zarr", change))
    frozen = [[f.message for f in episode.findings if f.kind == "frozen"] for episode in found]
    assert [len(messages) for messages in frozen] == [0, 0, 1, 0, 0, 0], frozen
    assert "pose says the same of b for 1.9 s from step 20 on while it is commanded elsewhere" in frozen[2][0]
    assert found[2].verdict == "error"


def test_a_state_that_begins_late_is_not_frozen(tmp_path: Path) -> None:
    """It stands for half a second to the last bit while the commands are under way already."""

    def change(seed: int, rows: Steps) -> None:
        for k, row in enumerate(rows):
            row["pose"] = rows[max(k - 5, 0)]["action"].copy()

    found = check_recording(following(named_task(), tmp_path / "x.zarr", change))
    assert not [f for episode in found for f in episode.findings if f.kind == "frozen"]


def test_a_stream_of_which_the_task_expects_change_is_held_to_that(tmp_path: Path) -> None:
    def change(seed: int, rows: Steps) -> None:
        for row in rows[10:28] if seed == 1 else ():
            row.update(pose=rows[10]["pose"], action=rows[10]["action"])

    buffer = following(named_task(freeze_after_s=1.0), tmp_path / "x.zarr", change)
    found = [f for episode in check_recording(buffer) for f in episode.findings]
    messages = [f.message for f in found if f.kind == "frozen"]
    assert messages == ["pose stays the same for 1.7 s from step 10 on, the task's freeze_after_s is 1"]


def test_a_lag_that_is_long_is_said_even_if_all_have_it_and_one_unlike_the_others_too(tmp_path: Path) -> None:
    def change(seed: int, rows: Steps) -> None:
        lag = {0: 9, 1: 7}.get(seed, 7)
        for k, row in enumerate(rows):
            row["pose"] = smooth_episode(seed, 60)[max(k - lag, 0)]["action"]

    found = check_recording(following(named_task(), tmp_path / "all.zarr", change))
    assert [[f.message for f in e.findings if f.kind == "lag"] for e in found[1:]] == [
        ["the state follows the commands by 7 steps, 0.70 s (at most 0.5)"]
    ] * 5

    def one(seed: int, rows: Steps) -> None:
        for k, row in enumerate(rows):
            row["pose"] = smooth_episode(seed, 60)[max(k - (10 if seed == 3 else 0), 0)]["action"]

    found = check_recording(following(named_task(), tmp_path / "one.zarr", one))
    lags = [[f.message for f in e.findings if f.kind == "lag"] for e in found]
    assert lags[3][-1] == "lag of 10 steps between command and state, the others' is 0"
    assert not any(lags[:3] + lags[4:])


def test_equal_pictures_of_a_video_are_a_warning_because_the_codec_may_have_made_them(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "x.zarr", TASK, storage=PictureStorage(video_crf=30)) as writer:
        for row in smooth_episode(0):
            writer.add({**row, "camera": np.full((96, 101, 3), 90, np.uint8)})
        writer.save()
    (found,) = check_recording(ReplayBuffer.open(tmp_path / "x.zarr"))
    assert [(f.kind, f.severity) for f in found.findings] == [("frozen", "warning")]


def test_stamps_of_the_raw_messages_beside_a_recording_are_looked_at(tmp_path: Path) -> None:
    raw = tmp_path / "x.raw"
    raw.mkdir()
    with (raw / "1.mcap").open("wb") as file:
        writer = McapWriter(file)
        writer.start(profile="ros2", library="test")
        for topic, definition, stamps in (
            ("/joints", "# a comment\n\nstd_msgs/Header header\nfloat64 x", [1.0, 1.1, 1.05, 1.2, 1.2]),
            ("/fine", "std_msgs/Header header", [1.0, 1.1]),
            ("/plain", "float64 x", [3.0, 2.0]),
        ):
            schema = writer.register_schema("t", "ros2msg", definition.encode())
            channel = writer.register_channel(topic, "cdr", schema)
            for k, stamp in enumerate(stamps):
                header = struct.pack("<4BiI", 0, 1, 0, 0, int(stamp), round(stamp % 1 * 1e9))
                writer.add_message(channel, k, header + bytes(8), k, k)
        writer.finish()
    (raw / "2.mcap").write_bytes(b"half of one")
    with EpisodeWriter(tmp_path / "x.zarr", TASK) as recorder:
        for seed, name in enumerate(["x.raw/1.mcap", "x.raw/2.mcap", "x.raw/gone.mcap", "../x", ""]):
            for row in smooth_episode(seed):
                recorder.add(row)
            recorder.save(info={"raw": name})
    found = [[f.message for f in e.findings] for e in check_recording(ReplayBuffer.open(tmp_path / "x.zarr"))]
    assert found[0] == [
        "raw messages of /joints: stamps stand still or run backwards 2 times (-0.050 s)",
    ]
    assert "the raw messages in x.raw/2.mcap cannot be read" in found[1][0]
    assert found[2:] == [[], [], []]
