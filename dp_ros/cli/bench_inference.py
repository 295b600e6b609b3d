"""`dp-ros bench`: how fast a model draws a chunk, beside the eager way and the limit of the machine, in one run.

    dp-ros bench --model models/pusht_state --json out/inference.json --plot out/inference.png
    dp-ros bench --widths 256,512,1024 --threads 1,2          # random weights of the paper's size
    dp-ros bench --widths 256,512,1024 --engine native_int8
    dp-ros bench --model pusht_image --encoder resnet18       # a random encoder, on pictures cropped to 84 x 84
    dp-ros bench --model models/mine --engine native_int8 --record    # how much its actions differ, into its manifest

Both ways take turns, so that other work on the machine falls on both: the ratio holds, the milliseconds do not.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from dp_ros import bringup
from dp_ros.benchmark import machine
from dp_ros.cli.eval import require_writable
from dp_ros.errors import UserError

if TYPE_CHECKING:
    from dp_ros.benchmark.inference import InferenceSpeed
    from dp_ros.benchmark.report import Quantiles

SECONDS = 20.0
#: Part of a picture that a random encoder sees, px.
CROP = (84, 84)


def run(args: argparse.Namespace) -> int:
    """Measure, print, write what was asked for."""
    from dp_ros.benchmark.inference import measure_inference
    from dp_ros.inference.manifest import load_manifest

    for path in (args.json, args.plot):
        require_writable(path)
    seconds = SECONDS if args.seconds is None else args.seconds
    if not 0.0 < seconds <= 3600.0:
        raise UserError(f"--seconds: got {seconds:g}, expected up to 3600")
    threads = numbers("--threads", args.threads or "1", "1,2")
    widths = None if args.widths is None else numbers("--widths", args.widths, "256,512,1024")
    if args.record and (args.widths or args.encoder):
        raise UserError(
            "--record: puts what was measured into a model's manifest; leave --widths and --encoder out"
        )
    found = machine.describe() | {"busy_cores_before": machine.busy_cores()}
    console = Console()
    with tempfile.TemporaryDirectory(prefix="dp_ros_bench_") as scratch:
        folder = Path(bringup.model_folder(args.model))
        random = ", ".join(
            f"{name} {value}" for name, value in (("widths", args.widths), ("encoder", args.encoder)) if value
        )
        if random:
            with console.status(f"random weights, {random}"):
                folder = random_model(folder, widths, args.encoder, Path(scratch) / "random")
        speeds = []
        for count in threads:
            with console.status(f"inference with {count} thread(s) for about {seconds:g} s"):
                speeds.append(measure_inference(folder, args.engine, count, seconds))
        name = f"random weights, {random}" if random else load_manifest(folder).model_id
    result: dict[str, Any] = {
        "model": name,
        **asdict(speeds[0]),
        **({"runs": [asdict(speed) for speed in speeds]} if len(speeds) > 1 else {}),
        "command": shlex.join(["dp-ros", *sys.argv[1:]]),
        **found,
    }
    if args.record:
        _record(folder, speeds)
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    console.print(_table(name, speeds))
    first = speeds[0]
    ready = ", ".join(
        f"{speed.startup_s:.1f} s with {speed.rss_mb:.0f} MiB resident ({_threads(speed)})"
        for speed in speeds
    )
    console.print(
        f"from import to ready {ready}; batch 1, "
        f"{first.work.steps} denoising steps, {first.work.flops / 1e6:.0f} M operations a chunk; "
        f"{first.turns} turns on {found['cores']} cores of {found['cpu']}; busy before: {found['busy_cores_before']} "
        "cores",
        highlight=False,
        soft_wrap=True,
    )
    if args.plot:
        from dp_ros.benchmark.figure import draw_inference

        draw_inference(name, speeds, args.plot)
    return 0


def numbers(option: str, given: str, example: str) -> list[int]:
    """A list of positive numbers; raises UserError if it is none."""
    try:
        found = [int(number) for number in given.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise UserError(f"{option}: got {given!r}, expected numbers such as {example}")
    return found


def random_model(like: Path, widths: list[int] | None, encoder: str | None, folder: Path) -> Path:
    """A model folder for the task of `like` with a U-Net of other widths, or another encoder, and random weights.

    With an encoder, pictures are cropped to 84 x 84, as the paper does with those of this size.
    """
    import torch

    from dp_ros.inference.export import export_policy
    from dp_ros.inference.manifest import NetworkSpec, load_manifest
    from dp_ros.policies.build import build_policy
    from dp_ros.policies.specs import UnetSpec, VisionSpec

    manifest = load_manifest(like)
    task = manifest.task_spec(str(like))
    cameras = {key: spec for key, spec in task.observations.items() if spec.is_image}
    if not isinstance(manifest.network, NetworkSpec | UnetSpec):
        raise UserError(f"model {like}: network {manifest.network.kind} is no U-Net; give another model")
    if encoder is not None and not cameras:
        raise UserError(
            f"--encoder: model {like} observes no pictures; give one that does, such as pusht_image"
        )
    torch.manual_seed(0)
    network: NetworkSpec | UnetSpec = NetworkSpec(widths=tuple(widths or manifest.network.widths))
    if cameras:
        vision = manifest.network.vision if isinstance(manifest.network, UnetSpec) else None
        if encoder is not None:
            vision = VisionSpec(encoder=encoder)  # type: ignore[arg-type]
            cropped = {key: spec.model_copy(update={"crop": CROP}) for key, spec in cameras.items()}
            task = task.model_copy(update={"observations": {**task.observations, **cropped}})
        network = UnetSpec(widths=network.widths, vision=vision)
    export_policy(build_policy(task, manifest.normalization, network, manifest.sampler), folder)  # type: ignore[arg-type]
    return folder


def _record(folder: Path, speeds: list[InferenceSpeed]) -> None:
    """Put the action error of the engine that was measured into the model's manifest."""
    from dp_ros.inference.manifest import load_manifest, write_manifest

    manifest = load_manifest(folder, verify=False)  # it may have been evaluated meanwhile
    errors = {**manifest.action_errors, speeds[0].engine: max(speed.max_abs_diff for speed in speeds)}
    write_manifest(folder, manifest.model_copy(update={"action_errors": errors}))


def _threads(speed: InferenceSpeed) -> str:
    return f"{speed.threads} thread{'s' if speed.threads > 1 else ''}"


def _table(name: str, speeds: list[InferenceSpeed]) -> Table:
    table = Table(title=f"drawing a chunk, {name}", title_justify="left")
    table.add_column("")
    for heading in ("p50 ms", "p99 ms", "max ms", "p99/p50", ""):
        table.add_column(heading, justify="right")

    def row(way: str, took: Quantiles, note: str = "") -> None:
        times = (f"{value:.2f}" for value in (took.p50, took.p99, took.max, took.p99 / took.p50))
        table.add_row(way, *times, note)

    for speed in speeds:
        threads = _threads(speed)
        row(
            f"engine {speed.engine}, {threads}", speed.total_ms, f"{speed.speedup:.2f} times as fast as eager"
        )
        error = f"actions differ by {speed.max_abs_diff:.1e} of their range of 2"
        row(f"eager torch, diffusers, {threads}", speed.eager_ms, error)
        if speed.encoder_ms and speed.sampler_ms and speed.eager_encoder_ms:
            note = f"{speed.encoder_speedup:.2f} times as fast as eager"
            row("  of that, pictures", speed.encoder_ms, note)
            row("  with pictures encoded before", speed.sampler_ms)
            row("  pictures, eager", speed.eager_encoder_ms)
        row("arithmetic as long, 1 thread", speed.even_work_ms, "how uneven the machine makes even work")
        table.add_row(
            f"limit of the machine, {threads}",
            f"{1e3 * speed.limits.seconds(speed.work):.2f}",
            *("", "", ""),
            f"the engine reaches {speed.roofline_fraction:.0%} of {speed.limits.flops_per_s / 1e9:.0f} GFLOP/s, "
            f"{speed.limits.bytes_per_s / 1e9:.0f} GB/s for {speed.work.step_bytes / 1e6:.1f} MB a step",
        )
    return table
