"""Measure: how fast a model draws, or what the runtime promises (setpoints on time, latency by stage, smooth seams,
scores under delay), or how fast training steps and their data are.

    dp-ros bench --model models/pusht_state        # inference beside the eager way: bench_inference.py
    dp-ros bench runtime --json out/runtime.json --plot out/runtime.png
    dp-ros bench runtime --seconds 20              # a short look at everything
    dp-ros bench runtime --only delay --record     # choose the model's default execution
    dp-ros bench train                             # training steps a second: bench_train.py
    dp-ros bench record                            # what a recorder loses and costs: bench_record.py
    dp-ros bench windows                           # random training windows a second: bench_windows.py

Ticks and stages run the nodes as processes over DDS in real time: leave the machine alone meanwhile. Seams and
scores run in simulated time, where the load of the machine changes nothing but the duration.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from dp_ros import bringup
from dp_ros.benchmark import machine
from dp_ros.benchmark.choice import choose, infer_every_candidates
from dp_ros.benchmark.delay import (
    LATENCIES_MS,
    Cell,
    candidates_of,
    collect,
    execution_json,
    jobs_of,
    run_jobs,
    summarize,
)
from dp_ros.benchmark.report import MODES, BenchmarkMode, RuntimeReport
from dp_ros.benchmark.seam import SEAM_LATENCY_MS, SEAM_SEEDS, measure_seams
from dp_ros.benchmark.stages import stage_quantiles
from dp_ros.benchmark.ticks import RATES_HZ
from dp_ros.cli import bench_inference, bench_record, bench_train, bench_windows
from dp_ros.cli.eval import require_writable
from dp_ros.errors import UserError
from dp_ros.inference.load import ENGINES, choose_engine, load_engine
from dp_ros.inference.manifest import ExecutionSpec, Manifest, load_manifest, utc_now, write_manifest
from dp_ros.task import TaskSpec
from dp_ros.training.evaluate import INTERVAL_METHOD, is_simulated, parse_seeds

PARTS = ("ticks", "stages", "seam", "delay")
PAPER_SEEDS = "100000:100050"
SECONDS = 60.0
REPEATS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `dp-ros bench`."""
    parser.add_argument(
        "what",
        nargs="?",
        choices=("inference", "runtime", "train", "windows", "record"),
        default="inference",
        help="what to measure (default inference)",
    )
    parser.add_argument(
        "--model",
        default="pusht_state",
        help="model folder, or the name of one that comes along (pusht_state)",
    )
    parser.add_argument(
        "--engine", choices=ENGINES, default="auto", help="default auto: native if it can be used, else onnx"
    )
    parser.add_argument(
        "--only",
        metavar="PART,...",
        default=",".join(PARTS),
        help=f"some of {', '.join(PARTS)} (default: all)",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        help=f"length of each measurement in real time, s (default {SECONDS:g}); given without --seeds and "
        "--repeats it also ends the scores at the first start state after that time",
    )
    parser.add_argument(
        "--seeds", help=f"start states of the scores, a:b or a,b,c (default {PAPER_SEEDS}, the paper's)"
    )
    parser.add_argument("--repeats", type=int, help=f"episodes a start state (default {REPEATS})")
    parser.add_argument(
        "--infer-every",
        type=int,
        metavar="N",
        help="steps between inferences in seams and scores, 0: back to back (default: as the model's manifest says)",
    )
    parser.add_argument(
        "--jobs", type=int, default=machine.usable_cores(), help="episodes at a time (default: one a core)"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the numbers there")
    parser.add_argument("--plot", metavar="PNG", type=Path, help="draw them there")
    parser.add_argument(
        "--hz",
        default=",".join(f"{hz:g}" for hz in RATES_HZ),
        metavar="HZ,...",
        help="rates of the setpoints that ticks measures, one after the other (default %(default)s)",
    )
    bench_train.add_arguments(parser)
    bench_record.add_arguments(parser)
    parser.add_argument(
        "--record",
        action="store_true",
        help="put into the model's manifest: of runtime the default execution that it chooses; of inference how much "
        "the engine's actions differ from eager torch's",
    )


@dataclass(frozen=True)
class _Plan:
    """What is going to be measured, on what."""

    model: Path
    manifest: Manifest
    task: TaskSpec
    engine: str
    seconds: float
    rates_hz: tuple[float, ...]
    seeds: list[int]
    repeats: int
    infer_every: int
    jobs: int
    modes: tuple[BenchmarkMode, ...]
    record: bool
    #: After which no start state is begun any more, s; None: all of them.
    budget_s: float | None


def run(args: argparse.Namespace) -> int:
    """Measure, print tables, write what was asked for."""
    if args.what == "inference":
        return bench_inference.run(args)
    if args.what == "train":
        return bench_train.run(args)
    if args.what == "record":
        return bench_record.run(args)
    if args.what == "windows":
        return bench_windows.run(args)
    parts = _parts(args.only, args.record)
    plan = _plan(args)
    for path in (args.json, args.plot):
        require_writable(path)
    console = Console()
    report = RuntimeReport(meta=_meta(args, plan))
    measure = {"ticks": _ticks, "stages": _stages, "seam": _seam, "delay": _delay}
    for part in parts:
        measure[part](plan, report, console)
        report.meta["load_average_after"] = machine.load_average()
        if args.json:  # after each part: the last one may take an hour
            args.json.write_text(json.dumps(report.as_json(), indent=2) + "\n", encoding="utf-8")
    for table in report.tables():
        console.print(table)
    console.print(_closing_lines(report), highlight=False, soft_wrap=True)
    if args.plot:
        from dp_ros.benchmark.figure import draw

        draw(report, args.plot)
    return 0


def _parts(given: str, record: bool) -> list[str]:
    wanted = given.split(",")
    for part in wanted:
        if part not in PARTS:
            raise UserError(f"--only: got {part!r}, expected some of {', '.join(PARTS)}")
    if record and "delay" not in wanted:
        raise UserError(
            "--record chooses by the scores under delay; add delay to --only, or leave --only out"
        )
    return [part for part in PARTS if part in wanted]


def _plan(args: argparse.Namespace) -> _Plan:
    model = Path(bringup.model_folder(args.model))
    manifest = load_manifest(model)
    task = manifest.task_spec(str(model))
    if not is_simulated(task):
        raise UserError(f"model {model}: its task {task.name} is not one of the simulated robot")
    for name, low in (("repeats", 1), ("jobs", 1), ("infer_every", 0)):
        value = getattr(args, name)
        if value is not None and value < low:
            raise UserError(f"--{name.replace('_', '-')}: got {value}, expected at least {low}")
    if args.seconds is not None and not 1.0 <= args.seconds <= 86400.0:
        raise UserError(f"--seconds: got {args.seconds:g}, expected 1 to 86400")
    infer_every = args.infer_every
    if infer_every is None:
        infer_every = manifest.execution.infer_every if manifest.execution else task.n_action_steps
    longest = task.horizon - task.n_obs_steps + 1
    if infer_every > longest:
        raise UserError(
            f"--infer-every: got {infer_every}, a chunk of task {task.name} lasts {longest} steps"
        )
    whole = args.seconds is None or args.seeds is not None or args.repeats is not None
    return _Plan(
        model=model,
        manifest=manifest,
        task=task,
        engine=choose_engine(manifest, args.engine),
        seconds=args.seconds or SECONDS,
        rates_hz=_rates(args.hz),
        seeds=parse_seeds(args.seeds or PAPER_SEEDS),
        repeats=args.repeats or REPEATS,
        infer_every=infer_every,
        jobs=args.jobs,
        modes=tuple(mode for mode in MODES if mode != "rtc" or manifest.prefix != "none"),
        record=args.record,
        budget_s=None if whole else args.seconds,
    )


def _rates(given: str) -> tuple[float, ...]:
    try:
        rates = tuple(float(rate) for rate in given.split(","))
    except ValueError:
        rates = ()
    if not rates or not all(1.0 <= rate <= 1000.0 for rate in rates):
        raise UserError(
            f"--hz: got {given!r}, expected rates of 1 to 1000 Hz with commas between, such as 100,500"
        )
    return rates


def _meta(args: argparse.Namespace, plan: _Plan) -> dict[str, Any]:
    return {
        "created": utc_now(),
        "command": shlex.join(["dp-ros", *sys.argv[1:]]),
        "model": plan.model.name,
        "model_id": plan.manifest.model_id,
        "engine": plan.engine,
        "task": plan.task.name,
        "unit": "px",
        "seeds": args.seeds or PAPER_SEEDS,
        "repeats": plan.repeats,
        "seconds": plan.seconds,
        "interval_method": INTERVAL_METHOD,
        **machine.describe(),
        "load_average_before": machine.load_average(),
        "busy_cores_before": machine.busy_cores(),
    }


def _ticks(plan: _Plan, report: RuntimeReport, console: Console) -> None:
    from dp_ros.benchmark.session import measure_ticks

    for rate_hz in plan.rates_hz:
        stolen_before_s = machine.stolen_s()
        with console.status(f"setpoints at {rate_hz:g} Hz for {plan.seconds:g} s"):
            tick, busy = measure_ticks(str(plan.model), plan.task, plan.engine, rate_hz, plan.seconds)
        report.ticks.append(tick)
        report.meta.setdefault("inference_busy", []).append(round(busy, 3))
        report.meta.setdefault("stolen_s", []).append(round(machine.stolen_s() - stolen_before_s, 2))


def _stages(plan: _Plan, report: RuntimeReport, console: Console) -> None:
    from dp_ros.benchmark.session import measure_stages

    with console.status(f"from observation to action, for {plan.seconds:g} s"):
        times = measure_stages(str(plan.model), plan.task, plan.engine, plan.seconds, plan.seeds[0])
    report.stages_ms = stage_quantiles(times)


def _seam(plan: _Plan, report: RuntimeReport, console: Console) -> None:
    engine = load_engine(plan.model, plan.engine, threads=1)
    seeds = plan.seeds[:SEAM_SEEDS]
    report.meta["seam"] = {"latency_ms": SEAM_LATENCY_MS, "seeds": seeds, "infer_every": plan.infer_every}
    cells = [_cell(plan, mode, plan.infer_every, SEAM_LATENCY_MS) for mode in plan.modes]
    for cell in track(cells, "jumps at seams", console=console, disable=not console.is_terminal):
        report.seam[cell.mode] = measure_seams(engine, cell, seeds)


def _delay(plan: _Plan, report: RuntimeReport, console: Console) -> None:
    every = infer_every_candidates(plan.task.n_action_steps) if plan.record else (plan.infer_every,)
    cells = [
        _cell(plan, mode, infer_every, ms)
        for mode in plan.modes
        for infer_every in (every if mode != "naive" else every[:1])
        for ms in LATENCIES_MS
    ]
    runs = run_jobs(plan.model, plan.engine, jobs_of(cells, plan.seeds, plan.repeats), plan.jobs)
    total = len(cells) * len(plan.seeds) * plan.repeats
    shown = track(runs, "scores under delay", total=total, console=console, disable=not console.is_terminal)
    outcomes = collect(shown, len(cells), plan.budget_s)
    report.meta["jobs"] = plan.jobs
    report.meta["episodes_per_cell"] = min(len(found) for found in outcomes.values())
    candidates = candidates_of(outcomes)
    choice = choose(candidates)
    best = {  # the others are candidates that were tried for --record
        mode: max((c for c in candidates if c.mode == mode), key=lambda c: c.merit).infer_every
        for mode in {c.mode for c in candidates}
    }
    for cell, found in outcomes.items():
        if cell.mode == "naive" or cell.infer_every == best[cell.mode]:
            report.delay.setdefault(cell.mode, {})[cell.latency_ms] = summarize(cell, found)
    if plan.record:
        report.execution = execution_json(choice, candidates, outcomes)
        execution = ExecutionSpec(mode=choice.chosen.mode, infer_every=choice.chosen.infer_every)
        now = load_manifest(plan.model, verify=False)  # it may have been evaluated meanwhile
        write_manifest(plan.model, now.model_copy(update={"execution": execution}))


def _cell(plan: _Plan, mode: BenchmarkMode, infer_every: int, latency_ms: int) -> Cell:
    """A cell of the table; the naive loop executes all of its chunk before it infers again."""
    return Cell(mode, plan.task.n_action_steps if mode == "naive" else infer_every, latency_ms)


def _closing_lines(report: RuntimeReport) -> str:
    meta = report.meta
    lines = [
        f"{meta['model_id']} on {meta['cores']} cores of {meta['cpu']}; busy before: {meta['busy_cores_before']} "
        f"cores, load average {meta['load_average_before'][0]} before and {meta['load_average_after'][0]} after"
    ]
    if report.ticks:
        stolen = ", ".join(f"{seconds:g} s" for seconds in meta["stolen_s"])
        lines.append(
            f"ticks: an inference was under way for {min(meta['inference_busy']):.0%} of the time; a hypervisor took "
            f"{stolen} of processor time from this machine meanwhile"
        )
    if report.seam:
        seam = meta["seam"]
        lines.append(
            f"seams: {len(seam['seeds'])} episodes a mode at {seam['latency_ms']} ms of latency, sampled at 1 kHz"
        )
    if report.delay:
        lines.append(
            f"scores: {meta['episodes_per_cell']} episodes a cell; interval: {meta['interval_method']}"
        )
    if report.execution is not None:
        lines += [f"execution: {report.execution['reason']}", f"rule: {report.execution['rule']}"]
    return "\n".join(lines)
