"""Each fault that can be in an episode is found, in that episode and in no other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from dp_ros.data.episode_writer import EpisodeWriter
from dp_ros.data.health import check_recording
from dp_ros.data.replay_buffer import ReplayBuffer
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
