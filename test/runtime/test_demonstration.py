from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import yaml

from dp_ros.paths import share_dir
from dp_ros.runtime.demonstration import CommandGapError, CommandTrack, DemonstrationRows, TakeoverTrack
from dp_ros.runtime.observation import StaleStream
from dp_ros.task import TaskSpec, load_task

DT = 100_000_000
T0 = 5_000_000_000
NAMES = ["agent_x", "agent_y"]


def track() -> CommandTrack:
    return CommandTrack(NAMES, DT)


def command(track: CommandTrack, stamp_ns: int, x: float, received_ns: int | None = None) -> str | None:
    return track.add(stamp_ns, NAMES, [0], [[x, -x]], stamp_ns if received_ns is None else received_ns)


def value(track: CommandTrack, time_ns: int) -> float | None:
    position = track.at(time_ns)
    return None if position is None else float(position[0])


def test_a_single_point_is_in_force_at_its_time_and_for_less_than_one_step_after() -> None:
    commands = track()
    command(commands, T0, 7.0)
    assert value(commands, T0 - 1) is None
    assert value(commands, T0) == 7.0
    assert value(commands, T0 + DT - 1) == 7.0
    assert value(commands, T0 + DT) is None


def test_a_command_for_later_leaves_the_present_one_in_force_until_then() -> None:
    commands = track()
    command(commands, T0, 1.0)
    command(commands, T0 + DT, 2.0, received_ns=T0 + 3)
    assert value(commands, T0 + DT - 1) == 1.0
    assert value(commands, T0 + DT) == 2.0


def test_of_two_commands_for_one_time_the_later_message_counts() -> None:
    commands = track()
    command(commands, T0, 1.0)
    command(commands, T0, 2.0)
    assert value(commands, T0) == 2.0


def test_a_trajectory_is_linear_between_its_points_and_joints_are_found_by_name() -> None:
    commands = track()
    names = ["agent_y", "agent_x"]
    assert commands.add(T0, names, [0, 2 * DT], [[0.0, 10.0], [4.0, 20.0]], T0) is None
    np.testing.assert_allclose(commands.at(T0 + DT), [15.0, 2.0])


def test_a_command_without_stamp_counts_from_its_arrival() -> None:
    commands = track()
    command(commands, 0, 3.0, received_ns=T0)
    assert value(commands, T0 - 1) is None
    assert value(commands, T0) == 3.0


def test_a_command_that_was_over_when_it_came_was_never_executed() -> None:
    commands = track()
    command(commands, T0, 1.0)
    command(commands, T0 + 1, 9.0, received_ns=T0 + 2)
    assert value(commands, T0 + 5) == 1.0


@pytest.mark.parametrize(
    ("names", "times", "positions", "message"),
    [
        (["a", "b"], [0], [[1.0, 2.0]], r"names joints \['a', 'b'\], the task says \['agent_x', 'agent_y'\]"),
        (NAMES, [], [], "no points"),
        (NAMES, [5, 5], [[1.0, 2.0], [1.0, 2.0]], "do not increase|does not increase"),
        (NAMES, [0], [[1.0]], "without a position for each"),
        (NAMES, [0], [[1.0, float("nan")]], "not a finite number"),
    ],
)
def test_an_unusable_command_is_refused_with_its_reason(names, times, positions, message) -> None:
    problem = track().add(T0, names, times, positions, T0)
    assert problem is not None
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(problem)


def demonstration(steps: int, commanded: list[int]) -> DemonstrationRows:
    rows = DemonstrationRows(load_task("pusht_state"), DT)
    for k in range(steps):
        rows.buffer.add("keypoint", T0 + k * DT, np.full(18, k, np.float32))
        rows.buffer.add("agent_pos", T0 + k * DT, np.full(2, -k, np.float32))
        if k in commanded:
            command(rows.commands, T0 + k * DT, float(k))
    return rows


def test_rows_hold_what_was_observed_and_commanded_at_the_same_time() -> None:
    rows = demonstration(5, [1, 2, 3])
    taken = [rows.row(T0 + k * DT) for k in range(5)]
    assert [row is not None for row in taken] == [False, True, True, True, False]
    for k, row in enumerate(taken[1:4], start=1):
        assert row is not None
        assert (row["keypoint"][0], row["agent_pos"][0], row["action"][0]) == (k, -k, k)
        assert row["timestamp"] == (k - 1) * 0.1
    assert rows.n_rows == 3


def test_an_operator_who_pauses_and_goes_on_ends_the_episode() -> None:
    rows = demonstration(5, [0, 1, 4])
    for k in range(4):
        rows.row(T0 + k * DT)
    with pytest.raises(CommandGapError, match="nothing was commanded on /pusht/joint_trajectory for 0.20 s"):
        rows.row(T0 + 4 * DT)
    assert rows.n_rows == 2


def test_a_stream_that_stops_is_named_and_nothing_is_filled_in() -> None:
    rows = demonstration(2, [0, 1])
    for k in range(2, 8):
        rows.buffer.add("keypoint", T0 + k * DT, np.zeros(18, np.float32))
        command(rows.commands, T0 + k * DT, 0.0)
    with pytest.raises(StaleStream, match="agent_pos: .*max_age_s is 0.25"):
        for k in range(8):
            rows.row(T0 + k * DT)
    assert rows.n_rows == 4  # 0.2 s old is still allowed


def gripper_task(**gripper: Any) -> TaskSpec:
    """pusht_state with setpoints, and a gripper that has a topic of its own."""
    task = yaml.safe_load((share_dir() / "config/tasks/pusht_state.yaml").read_text())
    task["action"] |= {
        "type": "std_msgs/msg/Float64MultiArray",
        "output": "setpoint",
        "rate_hz": 50,
        "names": ["agent_x", "hand", "agent_y"],
        "shape": [3],
        "grippers": [{"name": "hand", "topic": "/hand", **gripper}],
        "limits": {"position": {"min": [0, 0, 0], "max": [512, 1, 512]}},
    }
    return TaskSpec.from_dict(task, source="test")


def observed(rows: DemonstrationRows, steps: int) -> DemonstrationRows:
    for k in range(steps):
        rows.buffer.add("keypoint", T0 + k * DT, np.full(18, k, np.float32))
        rows.buffer.add("agent_pos", T0 + k * DT, np.full(2, -k, np.float32))
    return rows


SAME_UNITS = {"close_above": 0.6, "open_below": 0.4, "open": 0.0, "closed": 0.8}


def test_a_gripper_with_a_topic_of_its_own_holds_its_command_and_no_row_comes_before_it() -> None:
    rows = observed(DemonstrationRows(gripper_task(**SAME_UNITS), DT), 4)
    assert rows.command_names == ["agent_x", "agent_y"]
    for k in range(4):
        rows.commands.add(T0 + k * DT, ["agent_x", "agent_y"], [0], [[k, -k]], T0 + k * DT)
    assert rows.row(T0) is None
    assert rows.uncommanded() == ["/hand"]
    rows.grippers["hand"].add(T0 + DT, ["hand"], [0], [[0.7]], T0 + DT)
    taken = [rows.row(T0 + k * DT) for k in (1, 2, 3)]
    assert [row["action"].tolist() for row in taken if row is not None] == [[k, 0.7, -k] for k in (1, 2, 3)]
    assert rows.uncommanded() == []


@pytest.mark.parametrize(("sent", "said"), [(0.08, 0.2), (0.0, 0.8), (0.05, 0.2), (0.01, 0.8)])
def test_a_gripper_in_other_units_than_the_policys_is_recorded_as_open_or_closed(
    sent: float, said: float
) -> None:
    task = gripper_task(close_above=0.6, open_below=0.4, open=0.08, closed=0.0)
    rows = observed(DemonstrationRows(task, DT), 1)
    rows.commands.add(T0, ["agent_x", "agent_y"], [0], [[1.0, 2.0]], T0)
    rows.grippers["hand"].add(T0, ["hand"], [0], [[sent]], T0)
    row = rows.row(T0)
    assert row is not None
    np.testing.assert_allclose(row["action"], [1.0, said, 2.0])


@pytest.mark.parametrize(("rotation", "n"), [("quaternion", 4), ("axis_angle", 3), ("6d", 6)])
@pytest.mark.parametrize("relative", [False, True])
def test_a_commanded_pose_is_recorded_absolute_in_the_policys_representation(
    rotation: str, n: int, relative: bool
) -> None:
    task = yaml.safe_load((share_dir() / "config/tasks/pusht_state.yaml").read_text())
    names = {"quaternion": ["qx", "qy", "qz", "qw"], "axis_angle": ["rx", "ry", "rz"]}
    task["observations"]["agent_pos"] = {
        "topic": "/pose",
        "type": "geometry_msgs/msg/PoseStamped",
        "fields": [f"position.{a}" for a in "xyz"] + [f"orientation.{a}" for a in "xyzw"],
        "shape": [7],
        "max_age_s": 0.25,
    }
    task["action"] = {
        "topic": "/servo/pose",
        "type": "geometry_msgs/msg/PoseStamped",
        "output": "setpoint",
        "rate_hz": 100,
        "names": ["x", "y", "z", *names.get(rotation, [f"r{i}" for i in range(1, 7)])],
        "shape": [3 + n],
        "rotation": rotation,
        "state": "agent_pos",
        "relative": relative,
        "limits": {"position": {"min": [-1.0] * 7, "max": [1.0] * 7}},
    }
    spec = TaskSpec.from_dict(task, source="test")
    rows = DemonstrationRows(spec, DT)
    rows.buffer.add("keypoint", T0, np.zeros(18, np.float32))
    rows.buffer.add("agent_pos", T0, np.array([0, 0, 0, 0, 0, 0, 1], np.float32))
    # A quarter turn about z, with the sign that has a negative w.
    half = np.sqrt(0.5)
    rows.commands.add(T0, spec.action.command_names, [0], [[0.1, 0.2, 0.3, 0.0, 0.0, -half, -half]], T0)
    row = rows.row(T0)
    assert row is not None
    expected = {"quaternion": [0, 0, half, half], "axis_angle": [0, 0, np.pi / 2], "6d": [0, 1, 0, -1, 0, 0]}
    np.testing.assert_allclose(row["action"], [0.1, 0.2, 0.3, *expected[rotation]], atol=1e-9)


def test_the_operator_counts_while_the_takeover_lasts_and_afterwards_until_the_policy_commands_again() -> (
    None
):
    rows = observed(DemonstrationRows(load_task("pusht_state"), 20 * DT, takeovers=True), 8)
    assert rows.takeovers is not None
    for k in (0, 1, 2, 6, 7):
        command(rows.commands, T0 + k * DT, float(k))
    for k in (2, 3, 4):
        command(rows.operator, T0 + k * DT, 100.0 + k)
    rows.takeovers.add(T0 + 3 * DT, True)
    rows.takeovers.add(T0 + 5 * DT, False)
    taken = [row for k in range(8) if (row := rows.row(T0 + k * DT)) is not None]
    assert [row["takeover"] for row in taken] == [0, 0, 0, 1, 1, 0, 0, 0]
    assert [row["action"][0] for row in taken[3:]] == [103, 104, 104, 6, 7]
    assert taken[0]["takeover"].dtype == np.uint8


def test_who_commands_is_known_after_the_clock_was_set_back() -> None:
    track = TakeoverTrack()
    track.add(T0 + DT, False)
    track.add(T0, True)  # overtaken by the other
    assert [track.at(t) for t in (T0 - 1, T0, T0 + DT - 1, T0 + DT)] == [False, True, True, False]
    track.add(T0 + 2 * DT, True)
    track.clear()
    assert track.at(1)
