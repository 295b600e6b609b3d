"""Drive the robot, or the simulated one, along the commands of a recorded episode.

    dp-ros data replay demos.zarr 3 --sim          the simulated PushT robot, started for it
    dp-ros data replay demos.zarr 3                says what would be done
    dp-ros data replay demos.zarr 3 --yes          the robot that is running

The robot goes to the first command slowly, then follows the episode within the limits of its task. Ctrl-C, an
emergency stop (/policy/emergency_stop), a state that is not measured any more or a tracking error end it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from pathlib import Path

from rich.console import Console

from dp_ros.data.layout import ACTION
from dp_ros.data.replay_buffer import ReplayBuffer
from dp_ros.errors import UserError
from dp_ros.runtime.replay import commands_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("recording", type=Path)
    parser.add_argument("episode", type=int)
    parser.add_argument("--sim", action="store_true", help="on the simulated PushT robot, started for it")
    parser.add_argument("--speed", type=float, default=1.0, help="1 is as recorded (default)")
    parser.add_argument(
        "--approach",
        type=float,
        default=0.1,
        help="share of the velocity limits with which the first command is approached (default 0.1)",
    )
    parser.add_argument("--yes", action="store_true", help="move the robot")


def run(args: argparse.Namespace) -> int:
    """Replay; returns an exit status."""
    from dp_ros import bringup
    from dp_ros.bridge.client import RosClient
    from dp_ros.bridge.pusht_client import PushTClient
    from dp_ros.bridge.replay_client import replay_episode
    from dp_ros.bridge.run_client import first_ctrl_c
    from dp_ros.processes import running

    buffer, console = ReplayBuffer.open(args.recording), Console()
    task = buffer.task
    if task is None:
        raise UserError(
            f"{args.recording}: does not say of which task it is, so no robot can be driven by it"
        )
    buffer.require_episode(args.episode)
    if not 0 < args.speed <= 2 or not 0 < args.approach <= 1:
        raise UserError("--speed: expected above 0, at most 2; --approach: above 0, at most 1")
    commands = commands_of(task, buffer.episode(args.episode)[ACTION])
    seed = int(buffer.episode_seeds[args.episode])
    names, first = task.action.command_names, commands[0]
    start = ", ".join(f"{name} {value:.4g}" for name, value in zip(names, first, strict=True))
    seconds = len(commands) / task.rate_hz / args.speed
    what = f"go to {start}, then follow {len(commands)} commands for {seconds:.1f} s on {task.action.topic}"
    if args.sim and (not task.name.startswith("pusht") or seed < 0):
        raise UserError(f"--sim: expected a PushT episode with a seed; this is {task.name} with seed {seed}")
    if not args.yes and not args.sim:
        raise UserError(f"the robot would {what}. Clear its way, and say --yes to move it")
    with contextlib.ExitStack() as stack:
        simulated: PushTClient | None = None
        client = RosClient("replay")
        if args.sim:
            os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
            nodes = stack.enter_context(running(bringup.pusht_alone(task=task.name, seed=seed)))
            client = simulated = PushTClient(task, nodes.check)
        stack.enter_context(client)
        if simulated is not None:
            client.wait(lambda: simulated.statuses, "the simulated robot")
        status = stack.enter_context(console.status(f"the robot will {what}"))
        interrupted = stack.enter_context(first_ctrl_c())
        replay_episode(
            client,
            task,
            commands,
            speed=args.speed,
            approach=args.approach,
            interrupted=interrupted,
            report=lambda replay: status.update(f"{replay.phase} {replay.progress_s:.1f} of {seconds:.1f} s"),
        )
        status.stop()
        score = "" if simulated is None else f"; score {simulated.statuses[-1].score:.3f}"
        console.print(f"episode {args.episode} replayed, {len(commands)} commands{score}")
    return 0
