"""Make a model folder from a training run, or from another model folder: manifest, ONNX graph, weights.

    dp-ros export runs/pusht models/pusht
    dp-ros export models/pusht models/pusht_ddpm --sampler ddpm
    dp-ros eval --model models/pusht --seeds 100000:100050 --repeats 3 --record

The graph is compared with torch before anything is put in place.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from rich.console import Console

from dp_ros.errors import UserError
from dp_ros.inference.manifest import (
    MANIFEST_FILE,
    ONNX_FILE,
    AnyNetwork,
    ExecutionSpec,
    Provenance,
    explain,
    load_manifest,
    utc_now,
)
from dp_ros.inference.sampler import SamplerSpec, steps_left_out
from dp_ros.runtime.execution import MODES, Execution, Mode
from dp_ros.task import TaskSpec

if TYPE_CHECKING:
    from dp_ros.policies.policy import Policy


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `dp-ros export`."""
    parser.add_argument(
        "source", metavar="RUN", type=Path, help="folder of a training run, or of a model to export again"
    )
    parser.add_argument(
        "model", metavar="MODEL", type=Path, help="model folder to write; its name is the model's"
    )
    parser.add_argument(
        "--checkpoint",
        metavar="best|last|STEP",
        help="of a run: weights of the best evaluation (default), the last ones, or those kept at a step",
    )
    parser.add_argument(
        "--sampler",
        choices=("ddim", "ddpm", "dpmsolver++"),
        help="ddim; ddpm, which adds noise at each step; dpmsolver++, for fewer steps (default: as the recipe says)",
    )
    parser.add_argument(
        "--num-inference-steps",
        type=int,
        metavar="N",
        help="denoising steps (default: as the recipe says; with --sampler ddpm all levels of the training)",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="scale of the noise that draws start from; below 1 they are more alike (default: as the recipe says, 1)",
    )
    parser.add_argument(
        "--warm-start",
        type=float,
        metavar="X",
        help="share of the denoising steps that are left out where a chunk is running: a draw then begins with what "
        "that one plans (default: as the recipe says, 0: with noise alone)",
    )
    parser.add_argument(
        "--mode",
        choices=MODES,
        help="how its chunks are executed by default (`dp-ros bench runtime --record` chooses by scores)",
    )
    parser.add_argument(
        "--infer-every",
        type=int,
        metavar="N",
        help="and steps from one inference to the next, 0: back to back",
    )
    parser.add_argument("--force", action="store_true", help="replace a model that is there")


def run(args: argparse.Namespace) -> int:
    """Write the model folder."""
    from dp_ros.inference.export import check_target, export_policy

    check_target(args.model, args.force)
    if (args.source / MANIFEST_FILE).is_file():
        policy, origin = _from_model(args)
    else:
        policy, origin = _from_run(args)
    execution = _execution(policy.task, args)
    if execution is not None:
        origin |= {"execution": execution, "scores": ()}
    manifest = export_policy(policy, args.model, force=args.force, **origin)
    size = sum(spec.bytes for spec in manifest.files.values())
    drawn: str = manifest.network.kind
    if manifest.network.denoises:
        drawn = f"{manifest.sampler.method} with {manifest.sampler.num_inference_steps} steps"
        if left_out := steps_left_out(manifest.sampler):
            drawn += f", {manifest.sampler.num_inference_steps - left_out} where a chunk is running"
    checked = "graph and torch agree" if ONNX_FILE in manifest.files else "no graph, runs in torch"
    Console().print(
        f"{args.model}: {manifest.model_id}, {size / 1e6:.1f} MB, {drawn}, prefix {manifest.prefix}; {checked}",
        highlight=False,
        soft_wrap=True,
    )
    return 0


def _from_run(args: argparse.Namespace) -> tuple[Policy, dict[str, Any]]:
    """The policy of a run, and what its manifest says of where it came from."""
    from dp_ros.training.run_folder import open_run
    from dp_ros.training.trained_policy import load_trained

    record = open_run(args.source)
    config = record.config
    checkpoint: str = args.checkpoint or "best"
    policy, progress = load_trained(args.source, checkpoint, _sampler(config.network, config.sampler, args))
    provenance = Provenance(
        data_digest=record.data_digest,
        n_episodes=record.n_episodes,
        n_steps=record.n_steps,
        seed=config.training.seed,
        steps=progress.step,
        samples=progress.step * record.samples_per_step,
        wall_time_s=round(progress.wall_time_s, 1),
        checkpoint="best" if checkpoint == "best" else "last" if checkpoint == "last" else "kept",
        created=utc_now(),
        versions=record.versions,
        git_commit=record.git_commit,
        started_from=record.started_from,
        ancestors=record.ancestors,
        total_wall_time_s=round(sum((run.wall_time_s for run in record.ancestors), progress.wall_time_s), 1),
        episode_seeds=record.episode_seeds,
    )
    return policy, {"provenance": provenance}


def _from_model(args: argparse.Namespace) -> tuple[Policy, dict[str, Any]]:
    """The policy of a model folder; what is known of it stays true as long as the sampler does."""
    from dp_ros.inference.torch import load_policy

    if args.checkpoint is not None:
        raise UserError(f"--checkpoint: {args.source} is a model and has no checkpoints; leave it out")
    manifest = load_manifest(args.source)
    sampler = _sampler(manifest.network, manifest.sampler, args)
    origin: dict[str, Any] = {"provenance": manifest.provenance}
    if sampler == manifest.sampler:
        origin |= {"scores": manifest.scores, "execution": manifest.execution}
    return load_policy(args.source, manifest, sampler), origin


def _execution(task: TaskSpec, args: argparse.Namespace) -> ExecutionSpec | None:
    """What was asked for; None: nothing. Raises UserError for what cannot be."""
    if args.mode is None and args.infer_every is None:
        return None
    every = task.n_action_steps if args.infer_every is None else args.infer_every
    mode: Mode = args.mode or "replace"
    Execution(mode, every).require(
        task, "guided"
    )  # every diffusion policy can be guided, and others have no rtc
    return ExecutionSpec(mode=mode, infer_every=every)


def _sampler(network: AnyNetwork, recipe: SamplerSpec, args: argparse.Namespace) -> SamplerSpec:
    """The recipe's sampler with what was asked for. Raises UserError for a value that cannot be."""
    changes: dict[str, Any] = {}
    if args.sampler is not None:
        changes["method"] = args.sampler
        if args.sampler == "ddpm":
            changes["num_inference_steps"] = recipe.train_steps
    if args.num_inference_steps is not None:
        changes["num_inference_steps"] = args.num_inference_steps
    if args.temperature is not None:
        changes["temperature"] = args.temperature
    if args.warm_start is not None:
        changes["warm_start"] = args.warm_start
    if changes and not network.denoises:
        raise UserError(f"sampler: a {network.kind} policy does not denoise; leave {', '.join(changes)} out")
    try:
        return SamplerSpec.model_validate({**recipe.model_dump(), **changes})
    except ValidationError as error:
        raise UserError("sampler: " + "\n  ".join(explain(error))) from None
