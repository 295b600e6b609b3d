"""Demonstrations through the nodes: starts simulated robot, teleoperation and recorder, and drives them."""

from __future__ import annotations

import argparse
from collections.abc import Generator

from rich.console import Console

from dp_ros import bringup
from dp_ros.bridge.collect_client import CollectClient
from dp_ros.data.replay_buffer import ReplayBuffer
from dp_ros.processes import running
from dp_ros.sim.pusht_episodes import DemonstrationStyle, Outcome, seeds_to_record
from dp_ros.task import TaskSpec


def collect_over_ros(
    task: TaskSpec, args: argparse.Namespace, style: DemonstrationStyle, console: Console
) -> Generator[Outcome, None, None]:
    """Record episodes over ROS in lockstep; yields what each came to.

    Raises:
        UserError: if a process ends or refuses; with its last lines of output or its reason.
    """
    images = [spec.shape[0] for spec in task.observations.values() if spec.is_image]
    description = bringup.collect(
        out=str(args.out),
        task=args.task,
        image_size_px=max(images, default=0),
        noise_px=style.noise_px,
        push_px_per_step=style.push_px_per_step,
        travel_px_per_step=style.travel_px_per_step,
    )
    with running(description) as processes, CollectClient(task, processes.check) as client:
        client.connect()
        console.print(f"{args.out}: {client.recorder.status.message}")
        recorded = ReplayBuffer.open(args.out).episode_seeds
        kept = 0
        for seed in seeds_to_record(args.seed, recorded):
            outcome = client.demonstrate(seed, keep_failures=args.keep_failures)
            kept += outcome.kept
            yield outcome
            if kept == args.episodes:
                return
