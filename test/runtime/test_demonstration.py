from __future__ import annotations

import numpy as np
import pytest

from dp_ros.runtime.demonstration import CommandGapError, CommandTrack, DemonstrationRows
from dp_ros.runtime.observation import StaleStream
from dp_ros.task import load_task

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
