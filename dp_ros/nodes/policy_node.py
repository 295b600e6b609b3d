"""Runs a policy on a robot: observations in, commands out, inside a `RunPolicy` goal only.

A lifecycle node. Configuring loads task and model and starts to listen; activating allows goals; nothing is
commanded outside a goal. What a configured node does is `policy_loop`. Easy to get wrong: every way out of a state
ends the goal being run first, and none releases the emergency stop, whose latch is the node's for that reason.
"""

from __future__ import annotations

from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from dp_ros.action import RunPolicy
from dp_ros.bridge.log import RosLogHandler
from dp_ros.bridge.parameters import declare
from dp_ros.bridge.spin import run_node
from dp_ros.errors import UserError
from dp_ros.inference.engine import Engine
from dp_ros.nodes.model_swap import ModelSwap, load_model
from dp_ros.nodes.policy_loop import PolicyLoop
from dp_ros.nodes.policy_options import declare_parameters, read_setup
from dp_ros.runtime.controller import Stop
from dp_ros.runtime.supervisor import StopLatch


class PolicyNode(LifecycleNode):
    """The policy as a lifecycle node (action `~/run`, topics `~/status`, `~/action_chunk`, `/diagnostics`)."""

    def __init__(self) -> None:
        super().__init__("policy")
        declare_parameters(self)
        self.autostart: bool = declare(
            self, "autostart", False, "configure and activate at once", read_only=True
        )
        self.last_error = ""
        self._loop: PolicyLoop | None = None
        self._active = False
        self._stop_latch = StopLatch()
        self._swap = ModelSwap(self, self._change_model)
        self._log_handler = RosLogHandler(self.get_logger())
        self._log_handler.attach()

    def destroy_node(self) -> None:
        """Release everything, in whichever state it is."""
        self._swap.destroy()
        self._disconnect()
        self._log_handler.detach()
        super().destroy_node()

    # --- lifecycle --------------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load task and model, listen to the observations."""
        try:
            self._connect(load_model(self, self.get_parameter("model").value))
        except UserError as error:
            self.last_error = str(error)
            self.get_logger().error(self.last_error)
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Allow goals."""
        if self._loop is None:
            self.last_error = "no model is in use; clean the node up and configure it again"
            self.get_logger().error(self.last_error)
            return TransitionCallbackReturn.FAILURE
        self._active = True
        self.get_logger().info("active: a goal may begin once the streams are there")
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End the goal being run, allow no more."""
        self._active = False
        self._end_goal("the node was deactivated")
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release the model, the topics and the threads."""
        self._disconnect()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End the goal being run and release everything."""
        self.end_goal()
        self._disconnect()
        return TransitionCallbackReturn.SUCCESS

    def end_goal(self) -> None:
        """End the goal being run, allow no more: the process was told to end."""
        self._active = False
        self._end_goal("the node was shut down")

    def _end_goal(self, message: str) -> None:
        if self._loop is not None:
            self._loop.finish(Stop(RunPolicy.Result.DEACTIVATED, message))

    def _connect(self, engine: Engine) -> None:
        self._loop = PolicyLoop(self, engine, lambda: self._active, self._stop_latch)

    def _disconnect(self) -> None:
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.destroy()

    def _change_model(self, engine: Engine) -> str:
        """Put another model into use; returns its id. Raises UserError if that cannot be done now."""
        if self._loop is None:
            raise UserError("the node is not configured; set its parameter model and configure it")
        fixed = self._active or bool(self.get_parameter("task").value)
        if fixed or engine.task.digest() == self._loop.engine.task.digest():
            self._loop.change_engine(engine)
        else:
            self._change_task(engine, self._loop.engine)
        return engine.manifest.model_id

    def _change_task(self, engine: Engine, before: Engine) -> None:
        """Connect to the topics of another model's task; where that cannot be, the model before stays in use."""
        read_setup(self, engine)
        self._disconnect()
        try:
            self._connect(engine)
        except UserError as error:
            try:
                self._connect(before)
            except UserError as again:
                raise UserError(f"{error}; nor can the model before be used again: {again}") from None
            raise


def make_node() -> PolicyNode:
    """The node, configured and activated if `autostart` is set; raises UserError where it cannot be."""
    node = PolicyNode()
    if node.autostart:
        if node.trigger_configure() != TransitionCallbackReturn.SUCCESS:
            message = node.last_error or "the policy node could not be configured"
            node.destroy_node()
            raise UserError(message)
        node.trigger_activate()
    return node


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run_node(make_node, args, before_end=PolicyNode.end_goal)


if __name__ == "__main__":
    raise SystemExit(main())
