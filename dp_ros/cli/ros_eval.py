"""Episodes through the nodes: starts the simulated robot and the policy as processes and runs seeds on them."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml

from dp_ros import bringup
from dp_ros.bridge.pusht_client import PushTClient
from dp_ros.errors import UserError
from dp_ros.processes import Processes, running
from dp_ros.sim.pusht_rollout import EpisodeResult
from dp_ros.task import TaskSpec, load_task


@contextlib.contextmanager
def pusht_session(
    *, model: str, task: str, engine: str = "auto", lockstep: bool = True, log_dir: Path | None = None
) -> Iterator[tuple[PushTClient, Processes]]:
    """Start simulated robot and policy, connect to them, and stop them on leaving.

    Args:
        model: model folder or the name of one.
        task: task file or name.
        engine: of the policy node.
        lockstep: whether simulated time waits for the policy.
        log_dir: where each node's output goes.

    Raises:
        UserError: if a process ends or does not answer; with its last lines of output.
    """
    spec = load_task(task)
    needs_images = any(stream.is_image for stream in spec.observations.values())
    size_px = max((s.shape[0] for s in spec.observations.values() if s.is_image), default=96)
    description = bringup.pusht_demo(
        task=task,
        model=model,
        engine=engine,
        lockstep=lockstep,
        image_size_px=size_px if needs_images else 0,
    )
    with running(description, log_dir=log_dir) as processes, PushTClient(spec, processes.check) as client:
        client.connect()
        yield client, processes


def run_ros_episodes(
    model: str, seeds: Iterable[int], repeats: int, engine: str, task: TaskSpec
) -> Iterator[EpisodeResult]:
    """Run every seed `repeats` times in lockstep over ROS.

    Raises:
        UserError: if a process ends, or the policy stops for any reason but the end of the episode.
    """
    with tempfile.TemporaryDirectory(prefix="dp_ros_") as folder:
        # The task as the model has it, which need not be a file on this machine.
        file = Path(folder) / "task.yaml"
        file.write_text(yaml.safe_dump(task.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
        with pusht_session(model=model, task=str(file), engine=engine) as (client, _):
            for seed in seeds:
                for repeat in range(repeats):
                    yield client.run_episode(seed, repeat=repeat)[0]


def model_for(task: TaskSpec) -> str:
    """Folder of the shipped model of a task.

    Raises:
        UserError: if there is none.
    """
    try:
        return bringup.model_folder(task.name)
    except UserError:
        raise UserError(
            f"no model for task {task.name} comes with this version; train one and give --model FOLDER"
        ) from None
