"""The documentation names what the program has: reason codes, times, parameters, files."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

from dp_ros.paths import share_dir
from dp_ros.runtime import stream, supervisor
from dp_ros.runtime.motion.chunk import ActionChunk, ChunkSchedule
from dp_ros.runtime.motion.limiter import HARDER, MOST_TICKS, Reason
from dp_ros.runtime.motion.planning import COARSE_S, TICK_S
from dp_ros.runtime.supervisor import Reaction, SafetyOptions, Supervisor
from dp_ros.task import TaskSpec, load_task

ROOT = share_dir()
SAFETY = (ROOT / "docs" / "safety.md").read_text(encoding="utf-8")
YOUR_ROBOT = (ROOT / "docs" / "your_robot.md").read_text(encoding="utf-8")
ROBOT_TASKS = ("ur5e_two_realsense", "so101")
WORDS = {
    Reaction.WAIT: "watches",
    Reaction.HOLD: "holds",
    Reaction.YIELD: "yields",
    Reaction.ABORT: "ends the goal",
}


def constants(module: object) -> set[str]:
    """Reason codes of a module: constants that are their own name."""
    return {name for name, value in vars(module).items() if name.isupper() and value == name}


def result_codes() -> set[str]:
    """Constants of the RunPolicy result."""
    text = (ROOT / "action" / "RunPolicy.action").read_text(encoding="utf-8")
    return set(re.findall(r"^string ([A-Z_]+)=\1", text, flags=re.MULTILINE))


def row(code: str) -> list[str]:
    """Cells of the row of safety.md that a code has in its first column."""
    rows = [line for line in SAFETY.splitlines() if line.startswith(f"| `{code}` |")]
    assert len(rows) == 1, f"docs/safety.md has {len(rows)} rows for {code}, expected one"
    return [cell.strip() for cell in rows[0].strip("|").split("|")]


def test_there_are_codes_to_look_for() -> None:
    assert {"STREAM_STALE", "TIME_LIMIT", "OUTPUT_FAILED"} <= result_codes()
    assert {"EMERGENCY_STOP", "TRACKING_ERROR"} <= constants(supervisor)
    assert "STREAM_STALE" in constants(stream)


@pytest.mark.parametrize(
    "code",
    sorted(result_codes() | constants(supervisor) | constants(stream) | {reason.value for reason in Reason}),
)
def test_every_reason_code_has_its_row(code: str) -> None:
    assert all(row(code)[1:])


def test_every_code_that_ends_a_goal_is_one_of_the_action() -> None:
    assert set(Supervisor().bounds()) <= result_codes()


def test_every_code_of_the_documentation_is_one_of_the_program() -> None:
    codes = result_codes() | constants(supervisor) | constants(stream) | {reason.value for reason in Reason}
    documented = set(re.findall(r"`([A-Z]{2,}(?:_[A-Z]+)+)`", SAFETY + YOUR_ROBOT))
    assert documented <= codes


@pytest.mark.parametrize("code", sorted(Supervisor().bounds()))
def test_reaction_and_time_are_those_of_the_supervisor(code: str) -> None:
    reaction, after_s = Supervisor().bounds()[code]
    _, _, at_once, ends_after, _ = row(code)
    assert at_once == WORDS[reaction]
    expected = "never" if math.isinf(after_s) else "at once" if after_s == 0 else f"{after_s:g} s"
    assert ends_after.startswith(expected)


def test_every_option_of_the_supervisor_is_explained_with_its_default() -> None:
    for name, option in SafetyOptions.__dataclass_fields__.items():
        assert f"`{name}" in SAFETY, f"docs/safety.md does not say what {name} is"
        if name.endswith("_s"):
            found = re.findall(rf"([\d.]+) s, `{name}`|`{name}` \(([\d.]+) s\)", SAFETY)
            assert found, f"docs/safety.md does not give the default of {name}"
            assert all(float(a or b) == option.default for a, b in found)


def test_bounds_of_planning_are_those_of_the_program() -> None:
    text = " ".join(SAFETY.split())
    assert f"up to {HARDER[-1]:g} times `limits.acceleration`" in text
    assert f"for {MOST_TICKS} ticks of all values together (7 joints: {MOST_TICKS // 7} ticks" in text
    assert f"of {TICK_S * 1e3:g} to {COARSE_S * 1e3:g} ms" in text


@pytest.mark.parametrize("name", ROBOT_TASKS)
def test_the_task_files_of_robots_are_complete(name: str) -> None:
    task = load_task(name)
    action = task.action
    assert action.state == "joints"
    assert action.limits.velocity and action.limits.acceleration and action.limits.tracking_error
    assert set(action.names) == set(task.observations["joints"].names)
    assert sum(spec.is_image for spec in task.observations.values()) == 2
    assert f"config/tasks/{name}.yaml" in YOUR_ROBOT


@pytest.mark.parametrize("name", ROBOT_TASKS)
def test_a_stop_from_the_largest_speed_takes_no_longer_than_the_page_says(name: str) -> None:
    task = load_task(name)
    robot = {"ur5e_two_realsense": "UR5e", "so101": "SO-101"}[name]
    said = re.search(rf"([\d.]+) s\s+for\s+the\s+{robot}", SAFETY)
    assert said
    velocity = 0.97 * np.array(task.action.limits.velocity)
    velocity[list(task.action.gripper_indices)] = 0.0
    schedule = ChunkSchedule(task.action)
    schedule.hold(-0.5 * velocity, 0)
    steps = np.arange(1, 16)[:, None] * velocity * task.dt_ns / 1e9
    chunk = ActionChunk(task.dt_ns, task.dt_ns, steps - 0.5 * velocity, 0)
    schedule.splice(chunk, not_before_ns=task.dt_ns)
    now_ns = 9 * task.dt_ns
    moving = schedule.state_at(now_ns)
    assert moving is not None and np.abs(moving.velocity).max() > 0.9 * velocity.max()
    stop_s = (schedule.brake(now_ns) - now_ns) / 1e9
    assert 0.5 * float(said[1]) < stop_s <= float(said[1])


def test_an_so101_model_recorded_from_trajectories_runs_with_setpoints() -> None:
    """What docs/your_robot.md says about recording with a copy in which only the action differs."""
    robot = load_task("so101")
    data = robot.model_dump(mode="json")
    for key in ("rate_hz", "command", "grippers"):
        data["action"].pop(key, None)
    data["action"].update(
        topic="/leader/joint_trajectory", type="trajectory_msgs/msg/JointTrajectory", output="trajectory"
    )
    robot.require_same_policy(TaskSpec.from_dict(data))


@pytest.mark.parametrize("page", ["safety.md", "your_robot.md"])
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if not link.startswith("http")]
    for link in links:
        assert (Path(ROOT) / "docs" / link).exists(), f"docs/{page} links to {link}"
