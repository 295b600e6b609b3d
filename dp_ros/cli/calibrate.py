"""Estimate how late a camera, a sensor or the robot's motion is, from a recorded motion, and write it to the task.

    dp-ros calibrate latency --task my_task.yaml --record 20 --out motion.npz        # while the robot is moved
    dp-ros calibrate latency --task my_task.yaml --data motion.npz action wrist_camera

Move the robot by hand or by teleoperation, unevenly, with pauses, through a good part of its range; nothing here
commands it. `action` compares what was commanded with what was measured; a stream's name compares that stream
with the one that measures the motion (action.state, or --against). Streams are calibrated in the order given,
each with the latencies found before. An answer that the motion does not determine is refused, and nothing is
written then. An episode recording (zarr) can be given as --data, but its rows lie on the task's grid and say
less than raw stamps do.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dp_ros.calibration.motion_recording import MotionRecording, load_motion
from dp_ros.calibration.plot import draw_calibration
from dp_ros.calibration.task_file import read_text, replace_text, with_number
from dp_ros.calibration.task_latency import TaskLatency, calibrate
from dp_ros.data.layout import ACTION
from dp_ros.errors import UserError
from dp_ros.paths import share_dir
from dp_ros.task import TaskSpec, load_task


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `dp-ros calibrate`."""
    commands = parser.add_subparsers(dest="command", required=True, metavar="latency")
    latency = commands.add_parser(
        "latency",
        help="estimate latencies from a recorded motion",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    latency.add_argument("what", nargs="*", metavar="WHAT", help="streams of the task, or `action`")
    latency.add_argument("--task", required=True, metavar="FILE", help="task file, which is changed")
    source = latency.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="motion recorded before (npz), or episodes (zarr)")
    source.add_argument("--record", type=float, metavar="SECONDS", help="record now, from the task's topics")
    latency.add_argument("--out", type=Path, metavar="X.npz", help="where --record keeps the motion")
    latency.add_argument("--against", default="", metavar="STREAM", help="compare with this stream")
    latency.add_argument(
        "--longest",
        type=float,
        default=0.5,
        metavar="SECONDS",
        help="latency looked for (default: %(default)s)",
    )
    latency.add_argument("--dry-run", action="store_true", help="change no file but the pictures")
    latency.add_argument(
        "--figures",
        type=Path,
        default=Path("out/calibration"),
        help="folder of the pictures (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Record if asked to, estimate, draw, write."""
    _require_sense(args)
    path = _task_file(args.task)
    task = load_task(path)
    console = Console()
    motion = [_record(task, args, console)] if args.data is None else load_motion(args.data, task)
    if args.data is not None and args.data.is_dir() and args.what:
        console.print(
            f"{args.data}: rows on a grid of {task.dt_ns / 1e6:g} ms; streams aligned asof are up to one period of "
            "their sensor late there. For raw stamps: --record",
            soft_wrap=True,
        )
    text = read_text(path)
    results = []
    for key in args.what:
        result = calibrate(task, motion, key, against=args.against, longest_s=args.longest)
        figure = args.figures / f"{key}.png"
        draw_calibration(result, figure)
        keys = ("action", "latency_s") if key == ACTION else ("observations", key, "latency_s")
        text = with_number(text, keys, result.seconds)
        results.append((result, _written(task, key), figure))
        task = _with_latency(task, key, result.seconds)
    if results:
        console.print(_table(results))
        for result, _, figure in results:
            console.print(
                f"{result.key}: {result.method}; {figure}", soft_wrap=True, markup=False, highlight=False
            )
        if args.dry_run:
            console.print(f"{path}: left as it is (--dry-run)", soft_wrap=True)
        else:
            replace_text(path, text)
            console.print(
                f"{path}: written; {task.name} now has digest {load_task(path).digest()}", soft_wrap=True
            )
    return 0


def _require_sense(args: argparse.Namespace) -> None:
    if args.record is not None and not 1 <= args.record <= 3600:
        raise UserError(f"--record {args.record:g}: expected 1 to 3600 seconds; 20 is good")
    if args.out is not None and args.record is None:
        raise UserError("--out keeps what --record records; give --record SECONDS")
    if args.record is not None and args.out is None and not args.what:
        raise UserError("--record alone keeps nothing: give --out X.npz, or what to calibrate")
    if args.data is not None and not args.what:
        raise UserError("nothing to do: name streams of the task, or `action`")
    if args.data is not None and not args.data.exists():
        raise UserError(f"{args.data}: is not there; `--record SECONDS --out FILE.npz` makes such a file")
    if not 0.05 <= args.longest <= 5.0:
        raise UserError(f"--longest {args.longest:g}: expected 0.05 to 5 seconds")


def _task_file(name: str) -> Path:
    """The file of a task given by path or by the name of one in config/tasks; as given where there is none."""
    shipped = share_dir() / "config" / "tasks" / f"{name}.yaml"
    return shipped if not Path(name).is_file() and shipped.is_file() else Path(name)


def _record(task: TaskSpec, args: argparse.Namespace, console: Console) -> MotionRecording:
    from dp_ros.bridge.motion_recorder import record_motion

    with console.status("waiting for the streams of the task") as status:
        motion = record_motion(
            task,
            args.record,
            report=lambda elapsed_s, counts: status.update(
                f"move the robot: {elapsed_s:.0f} of {args.record:g} s, "
                + ", ".join(f"{key} {count}" for key, count in counts.items())
            ),
        )
    counts = ", ".join(f"{key} {len(samples.stamps_ns)}" for key, samples in motion.streams.items())
    console.print(f"recorded {args.record:g} s: {counts} samples", soft_wrap=True)
    if ACTION not in motion.streams:
        console.print(f"nothing was commanded on {task.action.topic}")
    if args.out is not None:
        motion.save(args.out, task)
        console.print(f"{args.out}: written", soft_wrap=True)
    return motion


def _written(task: TaskSpec, key: str) -> float:
    return task.action.latency_s if key == ACTION else task.observations[key].latency_s


def _with_latency(task: TaskSpec, key: str, value_s: float) -> TaskSpec:
    """The task with one latency changed, so that what is calibrated next counts from it."""
    if key == ACTION:
        return task.model_copy(update={"action": task.action.model_copy(update={"latency_s": value_s})})
    changed = task.observations[key].model_copy(update={"latency_s": value_s})
    return task.model_copy(update={"observations": {**task.observations, key: changed}})


def _table(results: list[tuple[TaskLatency, float, Path]]) -> Table:
    table = Table()
    for heading in ("", "latency", "95 % interval", "before", "explained"):
        table.add_column(heading, justify="right" if heading else "left")
    for result, before_s, _ in results:
        low, high = result.latency.interval_s
        table.add_row(
            result.key,
            f"{result.seconds * 1e3:.0f} ms",
            f"{low * 1e3:.0f} to {high * 1e3:.0f} ms",
            f"{before_s * 1e3:g} ms",
            f"{result.latency.peak * 100:.0f} %",
        )
    return table
