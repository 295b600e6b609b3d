"""Moves the robot as a person wants, or the scripted expert: what the recorder takes for a demonstration.

The operator is a parameter: the PushT expert (`teleop_expert`), or a person with a gamepad or a leader arm
(`teleop_device`). Everything commanded leaves on the task's command topic, or on one where a policy yields to it.
"""

from __future__ import annotations

from rclpy.node import Node

from dp_ros.bridge.parameters import declare
from dp_ros.bridge.spin import run_node
from dp_ros.errors import UserError
from dp_ros.nodes.teleop_device import DeviceOperator
from dp_ros.nodes.teleop_expert import ExpertOperator
from dp_ros.task import load_task

OPERATORS = ("expert", "joy", "leader")


class TeleopNode(Node):
    """The operator as a node."""

    def __init__(self) -> None:
        super().__init__("teleop")
        task = load_task(declare(self, "task", "pusht_state", "task file or name", read_only=True))
        operator: str = declare(
            self, "operator", "expert", "who demonstrates", choices=OPERATORS, read_only=True
        )
        lockstep: bool = declare(
            self, "lockstep", False, "take part in lockstep simulation as `teleop`", read_only=True
        )
        if lockstep and operator != "expert":
            raise UserError(
                f"operator {operator}: simulated time does not wait for a person; lockstep:=false"
            )
        self._operator = (
            ExpertOperator(self, task, lockstep=lockstep)
            if operator == "expert"
            else DeviceOperator(self, task, operator)
        )

    def destroy_node(self) -> None:
        """Stop, and release everything."""
        self._operator.close()
        super().destroy_node()


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run_node(TeleopNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
