"""Simulated PushT robot: camera, joints, keypoints and score out, joint trajectories in.

In real time it ticks at the task's rate on the wall clock. In lockstep it publishes `/clock` and waits at
each tick until its participants are done, which makes a run deterministic and as fast as they are. After a
reset the world stands still until the first command comes, and again once the episode is over.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
from geometry_msgs.msg import Pose, PoseArray
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory

from dp_ros.bridge.clock import to_stamp
from dp_ros.bridge.codecs import decode_trajectory, encode_image
from dp_ros.bridge.lockstep import CLOCK_TOPIC, DONE_TOPIC, LockstepBarrier
from dp_ros.bridge.parameters import declare
from dp_ros.bridge.qos import reliable_qos
from dp_ros.bridge.spin import run_node
from dp_ros.errors import UserError
from dp_ros.msg import EpisodeStatus, LockstepDone
from dp_ros.sim.actuation_noise import ActuationNoise
from dp_ros.sim.pusht import CONTROL_HZ, MAX_STEPS, PHYSICS_HZ, PHYSICS_STEPS, PushT, StepResult
from dp_ros.sim.pusht_rollout import START_NS
from dp_ros.sim.pusht_view import MIN_SIZE_PX, render
from dp_ros.sim.trajectory_controller import TrajectoryController
from dp_ros.srv import ResetEpisode
from dp_ros.task import load_task

JOINTS = ["agent_x", "agent_y"]
#: Wall time after which a waiting lockstep repeats what it published.
REPEAT_S = 0.2
#: How often lockstep looks whether everybody is done, where no message wakes it.
POLL_S = 0.01


class PushTNode(Node):
    """The simulated robot as a node (`/pusht/...` topics, service `/pusht/reset`)."""

    def __init__(self) -> None:
        super().__init__("pusht")
        task = load_task(declare(self, "task", "pusht_state", "task file or name: rate and command topic"))
        self._lockstep: bool = declare(
            self, "lockstep", False, "drive /clock and wait for the participants at each tick", read_only=True
        )
        participants: list[str] = list(
            declare(self, "lockstep_participants", ["policy"], "whom lockstep waits for", read_only=True)
        )
        self._seed: int = declare(
            self, "seed", 100000, "start state of the first episode", low=0, high=2**32 - 1
        )
        self._image_px: int = declare(
            self,
            "image_size_px",
            96,
            "height and width of the camera picture; 0 publishes none",
            low=0,
            high=1024,
        )
        self._max_steps: int = declare(
            self, "max_steps", MAX_STEPS, "control steps after which an episode ends", low=1, high=100_000
        )
        self._noise_px: float = declare(
            self,
            "actuation_noise_px",
            0.0,
            "standard deviation of noise on executed targets, px",
            low=0.0,
            high=50.0,
        )
        if 0 < self._image_px < MIN_SIZE_PX:
            raise UserError(
                f"parameter image_size_px: got {self._image_px}, expected 0 or {MIN_SIZE_PX} to 1024"
            )
        if task.rate_hz != CONTROL_HZ:
            raise UserError(
                f"task {task.name}: rate_hz is {task.rate_hz:g}; PushT is controlled at {CONTROL_HZ} Hz"
            )
        self._joint_every = self._declare_rate("joint_rate_hz", "joint states")
        self._camera_every = self._declare_rate("camera_rate_hz", "pictures and keypoints")
        self._dt_ns = task.dt_ns
        self._world, self._robot = PushT(), TrajectoryController(JOINTS)
        self._noise = ActuationNoise(self._noise_px, self._seed)
        self._barrier = LockstepBarrier(participants)
        self._episode = self._step = self._rejected = 0
        self._phase = "ready"
        self._success = self._step_begun = False
        self._make_endpoints(task.action.topic)
        self._now_ns = START_NS if self._lockstep else self.get_clock().now().nanoseconds
        self._target = np.zeros(2)
        self._reset(self._seed, legacy=True)
        mode = f"lockstep with {', '.join(participants)}" if self._lockstep else "real time"
        self.get_logger().info(f"PushT at {task.rate_hz:g} Hz, {mode}, seed {self._seed}")
        if self._lockstep:
            self._publish()
            self._repeated_s = self._ticked_s = time.monotonic()
            self._timer = self.create_timer(POLL_S, self._advance)
        else:
            # The longest tick after which neither sensor nor the control period is missed.
            self._tick_steps = math.gcd(self._joint_every, self._camera_every, PHYSICS_STEPS)
            self._now_ns = self.get_clock().now().nanoseconds
            self._timer = self.create_timer(self._tick_steps / PHYSICS_HZ, self._real_time_tick)

    def _declare_rate(self, name: str, what: str) -> int:
        """Declare the rate of a sensor; returns how many physics steps lie between two of its samples."""
        rate_hz: int = declare(
            self,
            name,
            CONTROL_HZ,
            f"rate of {what}, Hz; a divisor of {PHYSICS_HZ}",
            low=CONTROL_HZ,
            high=PHYSICS_HZ,
        )
        if PHYSICS_HZ % rate_hz:
            raise UserError(f"parameter {name}: got {rate_hz}, expected a divisor of {PHYSICS_HZ}, e.g. 50")
        if self._lockstep and rate_hz != CONTROL_HZ:
            raise UserError(
                f"parameter {name}: got {rate_hz}, expected {CONTROL_HZ}: lockstep ticks at the task's rate"
            )
        return PHYSICS_HZ // rate_hz

    def _make_endpoints(self, command_topic: str) -> None:
        qos = reliable_qos()
        self._clock_pub = self.create_publisher(Clock, CLOCK_TOPIC, qos) if self._lockstep else None
        self._image_pub = self.create_publisher(Image, "/pusht/image", qos) if self._image_px else None
        self._joint_pub = self.create_publisher(JointState, "/pusht/joint_states", qos)
        self._keypoint_pub = self.create_publisher(PoseArray, "/pusht/keypoints", qos)
        self._status_pub = self.create_publisher(EpisodeStatus, "/pusht/status", reliable_qos(1000))
        self.create_subscription(JointTrajectory, command_topic, self._command, qos)
        self.create_subscription(LockstepDone, DONE_TOPIC, self._participant_done, qos)
        self.create_service(ResetEpisode, "/pusht/reset", self._reset_service)

    # --- commands ---------------------------------------------------------------------------------------

    def _command(self, message: Any) -> None:
        trajectory = decode_trajectory(message)
        self._barrier.command_received(trajectory.stamp_ns)
        if self._phase == "done":
            problem: str | None = "the episode is over; reset it first"
        elif self._phase == "ready" and 0 < trajectory.stamp_ns <= self._reset_ns:
            problem = "it was made before the reset"
        else:
            problem = self._robot.accept(trajectory, self._now())
        if problem is not None:
            self._rejected += 1
            if self._phase == "running":
                self.get_logger().warning(f"trajectory rejected: {problem}", throttle_duration_sec=1.0)
        elif self._phase == "ready":
            self._phase = "running"
        if self._lockstep:
            self._advance()

    def _participant_done(self, message: Any) -> None:
        self._barrier.done_received(message)
        if self._lockstep:
            self._advance()

    def _reset_service(self, request: Any, response: Any) -> Any:
        try:
            self._reset(request.seed, legacy=request.legacy)
            response.success = True
            if self._lockstep:
                self._publish()
        except UserError as error:
            response.success, response.message = False, str(error)
        response.episode = self._episode
        response.stamp = to_stamp(self._now_ns)
        return response

    def _reset(self, seed: int, *, legacy: bool) -> None:
        self._world.reset(seed, legacy=legacy)
        self._noise = ActuationNoise(self._noise_px, seed)
        self._robot.hold(self._world.agent_pos)
        self._target = self._world.agent_pos.copy()
        self._seed, self._phase, self._rejected = seed, "ready", 0
        self._step, self._coverage, self._reward = 0, self._world.coverage(), self._world.reward
        self._success = self._step_begun = False
        self._physics_steps = 0
        self._episode += 1
        if self._lockstep:
            # A tick of its own, so that no observation of the old world carries the time of the new one.
            self._reset_ns, self._now_ns = self._now_ns, self._now_ns + self._dt_ns
        else:
            self._reset_ns = self._now()

    # --- time -------------------------------------------------------------------------------------------

    def _now(self) -> int:
        return self._now_ns if self._lockstep else self.get_clock().now().nanoseconds

    def _advance(self) -> None:
        """Lockstep: go to the next tick if everybody is done with this one."""
        wall_s = time.monotonic()
        if self._barrier.waiting_for(self._now_ns):
            if wall_s - self._repeated_s >= REPEAT_S:
                self._repeated_s = wall_s
                self._publish()
            return
        # A world that stands still need not hurry; at real-time pace it leaves the processor to others.
        if self._phase != "running" and wall_s - self._ticked_s < self._dt_ns / 1e9:
            return
        if self._phase == "running":
            self._finish_step(self._world.step(self._noise.apply(self._robot.sample(self._now_ns))))
        self._now_ns += self._dt_ns
        self._repeated_s = self._ticked_s = wall_s
        self._publish()

    def _real_time_tick(self) -> None:
        """Real time: do the physics since the last tick, publish, and sample the command at control steps."""
        if self._step_begun:
            self._finish_step(self._world.drive(self._target, self._tick_steps))
        tick_ns = self._tick_steps * 1_000_000_000 // PHYSICS_HZ
        self._physics_steps += self._tick_steps
        self._now_ns += tick_ns
        behind_ns = self.get_clock().now().nanoseconds - self._now_ns
        if abs(behind_ns) > self._dt_ns:
            self.get_logger().warning(
                f"simulation is {behind_ns / 1e6:.0f} ms off the clock; catching up",
                throttle_duration_sec=5.0,
            )
            # By whole ticks: the timer keeps its phase, and this very tick may be late within it.
            self._now_ns += behind_ns // tick_ns * tick_ns
        self._publish()
        if self._physics_steps % PHYSICS_STEPS == 0:
            self._step_begun = self._phase == "running"
            if self._step_begun:
                self._target = self._noise.apply(self._robot.sample(self._now_ns))

    def _finish_step(self, result: StepResult | None) -> None:
        if result is None:
            return
        self._step += 1
        self._coverage, self._reward, self._success = result.coverage, result.reward, result.done
        if result.done or self._step >= self._max_steps:
            self._phase, self._step_begun = "done", False
            self._robot.hold(self._world.agent_pos)

    # --- publishing -------------------------------------------------------------------------------------

    def _publish(self) -> None:
        """What is due of all that shows the world at `_now_ns`; the clock last."""
        stamp = to_stamp(self._now_ns)
        if self._physics_steps % self._joint_every == 0:
            self._publish_joints(stamp)
        if self._physics_steps % self._camera_every == 0:
            self._publish_keypoints(stamp)
            if self._image_pub is not None:
                picture = render(self._world.state, self._image_px)
                self._image_pub.publish(encode_image(picture, self._now_ns, "pusht_camera"))
        if self._physics_steps % PHYSICS_STEPS == 0:
            self._publish_status(stamp)
        if self._clock_pub is not None:
            self._clock_pub.publish(Clock(clock=stamp))

    def _publish_joints(self, stamp: Any) -> None:
        world = self._world
        joints = JointState(name=JOINTS, position=world.agent_pos.tolist(), velocity=world.agent_vel.tolist())
        joints.header.stamp = stamp
        self._joint_pub.publish(joints)

    def _publish_keypoints(self, stamp: Any) -> None:
        keypoints = PoseArray()
        keypoints.header.stamp, keypoints.header.frame_id = stamp, "pusht"
        for x, y in self._world.keypoints.tolist():
            pose = Pose()
            pose.position.x, pose.position.y = x, y
            keypoints.poses.append(pose)
        self._keypoint_pub.publish(keypoints)

    def _publish_status(self, stamp: Any) -> None:
        status = EpisodeStatus(
            episode=self._episode,
            seed=self._seed,
            step=self._step,
            phase=self._phase,
            done=self._phase == "done",
            success=self._success,
            coverage=self._coverage,
            reward=self._reward,
            score=self._world.score,
            state=self._world.state.tolist(),
            rejected=self._rejected,
        )
        status.header.stamp = stamp
        self._status_pub.publish(status)


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run_node(PushTNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
