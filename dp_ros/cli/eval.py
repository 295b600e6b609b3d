"""Score a model on the simulated PushT robot, in process or through the nodes.

    dp-ros eval --model models/pusht_state --seeds 100000:100050 --repeats 3 --json out/eval.json
    dp-ros eval --model models/pusht_state --processes 8
    dp-ros eval --model models/pusht_state --ray auto

The score of an episode is its highest coverage over 0.95, at most 1; success is coverage
above 0.95. A mean over 50 seeds moves by 0.02 with the sampling noise alone: quote it over 3 repeats.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from dp_ros.errors import UserError
from dp_ros.inference.engine import Engine
from dp_ros.inference.load import ENGINES, choose_engine, load_engine
from dp_ros.inference.manifest import Manifest, ScoreSummary, load_manifest, utc_now, write_manifest
from dp_ros.sim.pusht_rollout import EpisodeResult
from dp_ros.training.evaluate import (
    INTERVAL_METHOD,
    Evaluation,
    in_order,
    is_simulated,
    parse_seeds,
    starts_of,
    summarize,
)
from dp_ros.training.evaluate_parallel import (
    run_engine,
    run_in_processes,
    run_on_ray,
    single_inferences_ms,
)

PAPER_SEEDS = "100000:100050"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `dp-ros eval`."""
    parser.add_argument("--model", metavar="DIR", required=True, type=Path, help="model folder")
    parser.add_argument(
        "--seeds",
        default=PAPER_SEEDS,
        help=f"start states, a:b or a,b,c (default {PAPER_SEEDS}, the paper's)",
    )
    parser.add_argument(
        "--repeats", type=int, default=1, help="episodes a seed, each with other sampling noise"
    )
    parser.add_argument(
        "--engine", choices=ENGINES, default="auto", help="default auto: native if it can be used, else onnx"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of an inference")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--ros", action="store_true", help="through the nodes, over DDS, in lockstep")
    where.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="on this Ray cluster, whose machines have dp_ros installed; auto: the one running here, "
        "local: one started here for the time being",
    )
    parser.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="episodes in N processes at a time (default 1; on a Ray cluster as many as it has processors for)",
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the result there")
    parser.add_argument("--figure", metavar="PNG", type=Path, help="draw the result there")
    parser.add_argument("--record", action="store_true", help="add the score to the model's manifest")


def run(args: argparse.Namespace) -> int:
    """Run the episodes, print a table, write what was asked for."""
    seeds = parse_seeds(args.seeds)
    if args.repeats < 1:
        raise UserError(f"--repeats: got {args.repeats}, expected at least 1")
    if args.processes is not None and args.processes < 1:
        raise UserError(f"--processes: got {args.processes}, expected at least 1")
    if args.ros and args.processes is not None:
        raise UserError("--processes cannot be given with --ros: over ROS one episode runs after the other")
    manifest = load_manifest(args.model)
    if not is_simulated(manifest.task_spec(str(args.model))):
        raise UserError(
            f"model {args.model}: its task {manifest.task['name']} is not one of the simulated robot"
        )
    for path in (args.json, args.figure):
        require_writable(path)
    console = Console()
    engine_name, results, engine = _episodes(args, manifest, seeds)
    total = len(seeds) * args.repeats
    episodes = list(
        track(results, "evaluating", total=total, console=console, disable=not console.is_terminal)
    )
    inference_ms = single_inferences_ms(engine) if engine is not None and engine.batches else None
    evaluation = summarize(in_order(episodes, seeds), inference_ms)
    console.print(
        _table(evaluation), _closing_lines(evaluation, manifest), sep="\n", highlight=False, soft_wrap=True
    )
    facts = {
        "model_id": manifest.model_id,
        "seeds": args.seeds,
        "repeats": args.repeats,
        "engine": engine_name,
    }
    facts |= {"transport": "ros" if args.ros else "in process", "created": utc_now()}
    if args.json:
        provenance = manifest.provenance.model_dump(mode="json") if manifest.provenance else None
        result = {**evaluation.as_json(), **facts, "provenance": provenance}
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if args.figure:
        _figure(evaluation, manifest, args.figure)
    if args.record:
        _record(args.model, manifest, evaluation, facts)
    return 0


def _episodes(
    args: argparse.Namespace, manifest: Manifest, seeds: list[int]
) -> tuple[str, Iterable[EpisodeResult], Engine | None]:
    """Name of the engine, the episodes as they end, and the engine unless a node has it."""
    if args.ros:
        from dp_ros.cli.ros_eval import run_ros_episodes

        task = manifest.task_spec(str(args.model))
        name = choose_engine(manifest, args.engine)
        return name, run_ros_episodes(str(args.model), seeds, args.repeats, name, task), None
    engine = load_engine(args.model, args.engine, threads=args.threads)
    starts = starts_of(seeds, args.repeats)
    how = {"batches": engine.batches, "threads": args.threads}
    if args.ray is not None:
        results = run_on_ray(args.model, engine.name, starts, args.ray, args.processes, **how)
    elif (args.processes or 1) > 1:
        results = run_in_processes(args.model, engine.name, starts, args.processes, **how)
    else:
        results = run_engine(engine, starts)
    return engine.name, results, engine


def _table(evaluation: Evaluation) -> Table:
    """One row a seed, over its repeats."""
    by_seed: dict[int, list[EpisodeResult]] = {}
    for episode in evaluation.episodes:
        by_seed.setdefault(episode.seed, []).append(episode)
    table = Table(title="episodes", title_justify="left")
    for heading in ("seed", "score", "success", "final coverage", "steps"):
        table.add_column(heading, justify="right")
    for seed, episodes in by_seed.items():
        table.add_row(
            str(seed),
            " ".join(f"{episode.score:.3f}" for episode in episodes),
            " ".join("yes" if episode.success else "no" for episode in episodes),
            " ".join(f"{episode.final_coverage:.3f}" for episode in episodes),
            " ".join(str(episode.steps) for episode in episodes),
        )
    return table


def _closing_lines(evaluation: Evaluation, manifest: Manifest) -> str:
    interval = evaluation.interval_95
    between = f", 95 % interval {interval[0]:.3f} to {interval[1]:.3f}" if interval else ""
    return (
        f"{manifest.model_id}: mean score {evaluation.mean_score:.3f}{between}; "
        f"success rate {evaluation.success_rate:.3f}; {len(evaluation.episodes)} episodes\n"
        f"inference p50 {evaluation.inference_p50_ms:.1f} ms, p99 {evaluation.inference_p99_ms:.1f} ms\n"
        f"interval: {INTERVAL_METHOD}"
    )


def _figure(evaluation: Evaluation, manifest: Manifest, path: Path) -> None:
    """Scores of all seeds, lowest first; each repeat is a dot."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    by_seed: dict[int, list[float]] = {}
    for episode in evaluation.episodes:
        by_seed.setdefault(episode.seed, []).append(episode.score)
    order = sorted(by_seed, key=lambda seed: sum(by_seed[seed]) / len(by_seed[seed]))
    figure, axes = pyplot.subplots(figsize=(9, 4.5), layout="constrained")
    for place, seed in enumerate(order):
        axes.plot([place] * len(by_seed[seed]), by_seed[seed], "o", color="tab:blue", alpha=0.6, markersize=4)
    if evaluation.interval_95:
        axes.axhspan(
            *evaluation.interval_95, color="tab:orange", alpha=0.25, label="95 % interval of the mean"
        )
    mean = evaluation.mean_score
    axes.axhline(mean, color="tab:orange", label=f"mean score {mean:.3f}")
    axes.set(xlabel="seed, lowest score first", ylabel="score", ylim=(-0.02, 1.02))
    if len(order) <= 60:
        axes.set_xticks(range(len(order)), [str(seed) for seed in order], rotation=90, fontsize=6)
    axes.set_title(f"{manifest.model_id}: success rate {evaluation.success_rate:.3f}")
    figure.legend(loc="outside lower center", ncols=2)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _record(folder: Path, manifest: Manifest, evaluation: Evaluation, facts: dict[str, Any]) -> None:
    """Add the score to the manifest, in place of an earlier one of the same kind."""
    score = ScoreSummary(
        seeds=facts["seeds"],
        repeats=facts["repeats"],
        engine=facts["engine"],
        transport=facts["transport"],
        n_episodes=len(evaluation.episodes),
        mean_score=evaluation.mean_score,
        interval_95=evaluation.interval_95,
        success_rate=evaluation.success_rate,
        inference_p50_ms=evaluation.inference_p50_ms,
        created=facts["created"],
    )
    kept = [old for old in manifest.scores if old.kind != score.kind]
    write_manifest(folder, manifest.model_copy(update={"scores": [*kept, score]}))


def require_writable(path: Path | None) -> None:
    """Raise UserError before the work, not after it, if a result cannot be written."""
    if path is None:
        return
    if path.is_dir():
        raise UserError(f"{path}: is a folder, expected a file to write")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
