"""What a policy predicts and what a robot is commanded: one into the other, and back.

Policy values (`action.names`) have the task's rotation representation, may count from the measured state
(`relative`) and say how closed a gripper is as a number. Command values (`action.command_names`), in which
schedules and limits are, are absolute; an orientation is a quaternion there, each with the sign nearer to the
one before it, and a gripper is either open or closed. Easy to get wrong: relative values count from the state
at the newest observation of their own chunk, not from the state when they are executed.

Relative poses count in the frame that the pose is commanded in (`action.frame_id`), positions and orientations
alike: position = measured + value, and orientation = value after measured, `compose(value, measured)`, a turn
about the axes of that frame. It is not the tool's frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dp_ros.runtime import rotation
from dp_ros.runtime.safety import BadAction
from dp_ros.task import GripperSpec, TaskSpec

Floats = npt.NDArray[np.float64]


class ActionSpace:
    """The two forms of a task's actions.

    Args:
        task: names, rotation representation, grippers and the stream that measures what is commanded.
    """

    def __init__(self, task: TaskSpec) -> None:
        action = task.action
        self._action = action
        self._state = None if action.state is None else task.observations[action.state]
        # A pose's orientation is three values in, and grippers are last in both forms.
        self._turn = slice(3, 3 + rotation.SIZES[action.rotation]) if action.is_pose else None
        by_name = {gripper.name: gripper for gripper in action.grippers}
        self._grippers = [
            (column, index, by_name[action.command_names[index]])
            for column, index in zip(
                (i for i, name in enumerate(action.names) if name in by_name),
                action.gripper_indices,
                strict=True,
            )
        ]
        # Values that are the same numbers in both forms, but for what relative ones count from.
        columns = range(3) if action.is_pose else range(action.dim)
        self._plain = [i for i in columns if i not in action.gripper_indices]

    @classmethod
    def absolute(cls, task: TaskSpec) -> ActionSpace:
        """Of what is recorded: absolute values, also of a task whose policy says relative ones."""
        action = task.action.model_copy(update={"relative": False})
        return cls(task.model_copy(update={"action": action}))

    def reference(self, observations: Mapping[str, npt.NDArray[Any]]) -> Floats | None:
        """Measured state at the newest step of a window, as command values.

        Args:
            observations: of a window, stream name to (n_obs_steps, *shape), oldest first.

        Returns:
            As `measured`; None if the task names no state.
        """
        key = self._action.state
        return None if key is None else self.measured(observations[key][-1])

    def measured(self, sample: npt.NDArray[Any]) -> Floats:
        """A sample of the state stream as command values, (command_dim,); NaN for grippers, which none measures.

        Raises:
            ValueError: if the task names no state, or the sample has another shape.
        """
        action, spec = self._action, self._state
        if spec is None:
            raise ValueError("the task names no stream that measures what is commanded (action.state)")
        if sample.shape != spec.shape:
            raise ValueError(f"{action.state} has shape {list(sample.shape)}, expected {list(spec.shape)}")
        values = np.full(action.command_dim, np.nan)
        if action.is_pose:
            values[:3] = sample[:3]
            values[3:7] = rotation.to_quaternion(sample[3:], spec.rotation)
        else:
            columns = spec.joint_positions
            for index in self._plain:
                values[index] = sample[columns[action.command_names[index]]]
        return values

    def to_commands(
        self,
        values: npt.NDArray[np.floating],
        *,
        reference: Floats | None = None,
        previous: Floats | None = None,
    ) -> Floats:
        """A sequence of policy values as command values.

        Args:
            values: (n, dim), in the order of time.
            reference: (command_dim,) measured state at the newest observation, which relative values count from.
            previous: (command_dim,) what is commanded just before the first of them, which decides the sign of
                the first quaternion and, between its thresholds, where a gripper stays; without it quaternions
                begin near the reference and a gripper takes the nearer threshold.

        Returns:
            (n, command_dim) float64; the same numbers where the task has nothing to convert.

        Raises:
            BadAction: if a value is not finite, or is no rotation.
            ValueError: if the values are relative and there is no reference.
        """
        given = self._checked(values)
        commands = np.empty((len(given), self._action.command_dim))
        commands[:, self._plain] = given[:, self._plain]
        base = self._base(reference)
        if base is not None:
            commands[:, self._plain] += base[self._plain]
        if self._turn is not None:
            commands[:, 3:7] = self._quaternions(given[:, self._turn], base, reference, previous)
        for column, index, gripper in self._grippers:
            before = None if previous is None else float(previous[index])
            commands[:, index] = _with_hysteresis(given[:, column], gripper, before)
        return commands

    def to_policy(self, commands: Floats, *, reference: Floats | None = None) -> Floats:
        """Commands as the values with which the policy would have asked for them.

        What real-time chunking gives the policy as its own past. A gripper becomes the value that is sent for it
        where that lies beyond the threshold, else a value beyond the threshold by their distance: what exactly
        the policy said is not kept. Quaternions get a w that is not negative.

        Args:
            commands: (n, command_dim).
            reference: (command_dim,) as in `to_commands`, of the observation that the policy values go with.

        Returns:
            (n, dim) float64.

        Raises:
            ValueError: if the values are relative and there is no reference.
        """
        if commands.ndim != 2 or commands.shape[1] != self._action.command_dim:
            raise ValueError(
                f"commands have shape {list(commands.shape)}, expected [n, {self._action.command_dim}]"
            )
        values = np.empty((len(commands), self._action.dim))
        base = self._base(reference)
        values[:, self._plain] = commands[:, self._plain]
        if base is not None:
            values[:, self._plain] -= base[self._plain]
        if self._turn is not None:
            turns = rotation.normalize(commands[:, 3:7])
            if base is not None:
                turns = rotation.compose(turns, rotation.inverse(base[3:7]))
            turns = np.where(turns[:, 3:] < 0.0, -turns, turns)
            values[:, self._turn] = rotation.from_quaternion(turns, self._action.rotation)
        for column, index, gripper in self._grippers:
            open_value, closed_value = _policy_values(gripper)
            values[:, column] = np.where(_is_closed(commands[:, index], gripper), closed_value, open_value)
        return values

    def to_relative(self, values: npt.NDArray[np.floating], reference: Floats) -> Floats:
        """Absolute values in the policy's representation as values relative to a state: a training target.

        Args:
            values: (n, dim), as recorded.
            reference: (command_dim,) state at the newest observation of the sample, or (n, command_dim) one for
                each value.

        Returns:
            (n, dim) float64; grippers are left as they are.

        Raises:
            BadAction: if a value is not finite, or is no rotation.
        """
        given = self._checked(values).copy()
        given[:, self._plain] -= reference[..., self._plain]
        if self._turn is not None:
            turns = rotation.compose(
                rotation.to_quaternion(given[:, self._turn], self._action.rotation),
                rotation.inverse(reference[..., 3:7]),
            )
            turns = np.where(turns[:, 3:] < 0.0, -turns, turns)
            given[:, self._turn] = rotation.from_quaternion(turns, self._action.rotation)
        return given

    def _base(self, reference: Floats | None) -> Floats | None:
        """What values count from; None if they are absolute."""
        if not self._action.relative:
            return None
        if reference is None:
            raise ValueError("relative actions need the measured state at the newest observation")
        return reference

    def _quaternions(
        self, turns: Floats, base: Floats | None, reference: Floats | None, previous: Floats | None
    ) -> Floats:
        try:
            quaternions = rotation.to_quaternion(turns, self._action.rotation)
        except rotation.BadRotation as problem:
            raise BadAction(f"{problem}; nothing was sent") from None
        if base is not None:
            quaternions = rotation.normalize(rotation.compose(quaternions, base[3:7]))
        before = previous if previous is not None else reference
        return rotation.align_sequence(quaternions, None if before is None else before[3:7])

    def _checked(self, values: npt.NDArray[np.floating]) -> Floats:
        action = self._action
        if values.ndim != 2 or values.shape[1] != action.dim:
            raise BadAction(f"actions have shape {list(values.shape)}, expected [n, {action.dim}]")
        if not np.isfinite(values).all():
            row, column = (int(i) for i in np.argwhere(~np.isfinite(values))[0])
            raise BadAction(
                f"action {row} of {action.names[column]} is {values[row, column]}; nothing was sent"
            )
        return values.astype(np.float64)


def _with_hysteresis(values: Floats, gripper: GripperSpec, before: float | None) -> Floats:
    """What is sent for a sequence of policy values, (n,)."""
    opens_below, closes_above = gripper.thresholds
    closing = values * gripper.closing_sign
    if before is not None and np.isfinite(before):
        closed = bool(_is_closed(np.array(before), gripper))
    else:
        closed = bool(len(closing) and closing[0] > (closes_above + opens_below) / 2)
    sent = np.empty(len(closing))
    for i, value in enumerate(closing):
        closed = value > closes_above or (closed and not value < opens_below)
        sent[i] = gripper.closed if closed else gripper.open
    return sent


def _is_closed(sent: Floats, gripper: GripperSpec) -> npt.NDArray[np.bool_]:
    return np.abs(sent - gripper.closed) < np.abs(sent - gripper.open)


def _policy_values(gripper: GripperSpec) -> tuple[float, float]:
    """Policy values that stand for open and for closed."""
    opens_below, closes_above = gripper.thresholds
    sign = gripper.closing_sign
    if sign * gripper.open < opens_below and sign * gripper.closed > closes_above:
        return gripper.open, gripper.closed
    distance = closes_above - opens_below
    return sign * (opens_below - distance), sign * (closes_above + distance)
