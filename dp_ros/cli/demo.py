"""`dp-ros demo`: the simulated robot driven by the shipped policy, in processes of their own, over DDS."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from dp_ros.errors import UserError
from dp_ros.sim.pusht_rollout import EpisodeResult
from dp_ros.task import load_task

VIDEO_SIZE_PX = 480
VIDEO_RATE_HZ = 20  # twice as fast as it happened


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("--episodes", type=int, default=3, help="how many (default 3)")
    parser.add_argument("--seed", type=int, default=100000, help="start state of the first; then one up each")
    parser.add_argument("--task", default="pusht_state", help="task file or name (default pusht_state)")
    parser.add_argument("--model", default="", help="model folder (default: the shipped one of the task)")
    parser.add_argument("--engine", default="auto", help="auto (default), native, onnx or torch")
    parser.add_argument("--realtime", action="store_true", help="on the wall clock instead of lockstep")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for report and pictures")


def run(args: argparse.Namespace) -> int:
    """Run the demo; exit status 0 if every episode ran to its end."""
    from dp_ros.cli.ros_eval import model_for, pusht_session

    if args.episodes < 1:
        raise UserError(f"--episodes {args.episodes}: expected at least 1")
    task = load_task(args.task)
    model = args.model or model_for(task)
    console = Console()
    mode = "real time" if args.realtime else "lockstep"
    console.print(f"PushT, {args.episodes} episode(s) in {mode}: starting simulated robot and policy ...")
    args.out.mkdir(parents=True, exist_ok=True)
    started_s = time.monotonic()
    episodes: list[EpisodeResult] = []
    session = pusht_session(
        model=model, task=args.task, engine=args.engine, lockstep=not args.realtime, log_dir=args.out / "log"
    )
    with session as (client, _):
        for seed in range(args.seed, args.seed + args.episodes):
            episode, _ = client.run_episode(seed)
            outcome = "success" if episode.success else "no success"
            console.print(f"  seed {seed}: score {episode.score:.3f}, {outcome}, {episode.steps} steps")
            episodes.append(episode)
    console.print(_table(episodes))
    report = _report(episodes, task=task.name, model=model, mode=mode, wall_s=time.monotonic() - started_s)
    path = args.out / "report.json"
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for episode in episodes:
        _draw(episode, args.out)
    console.print(f"report {path}; videos and contact sheets beside it", soft_wrap=True)
    return 0


def _quantile(values: list[float], percent: float) -> float:
    return float(np.percentile(values, percent)) if values else float("nan")


def _table(episodes: list[EpisodeResult]) -> Table:
    table = Table(
        "seed", "score", "success", "final coverage", "steps", "inference p50 / p99 ms", "late steps"
    )
    for e in episodes:
        table.add_row(
            str(e.seed),
            f"{e.score:.3f}",
            "yes" if e.success else "no",
            f"{e.final_coverage:.3f}",
            str(e.steps),
            f"{_quantile(e.inference_ms, 50):.1f} / {_quantile(e.inference_ms, 99):.1f}",
            str(e.late_steps),
        )
    return table


def _report(
    episodes: list[EpisodeResult], *, task: str, model: str, mode: str, wall_s: float
) -> dict[str, Any]:
    times = [ms for e in episodes for ms in e.inference_ms]
    return {
        "task": task,
        "model": Path(model).name,
        "mode": mode,
        "wall_s": round(wall_s, 2),
        "mean_score": float(np.mean([e.score for e in episodes])),
        "success_rate": float(np.mean([e.success for e in episodes])),
        "inference_ms": {"p50": _quantile(times, 50), "p99": _quantile(times, 99)},
        "episodes": [
            {
                "seed": e.seed,
                "score": e.score,
                "success": e.success,
                "final_coverage": e.final_coverage,
                "steps": e.steps,
                "late_steps": e.late_steps,
                "inference_ms": {"p50": _quantile(e.inference_ms, 50), "p99": _quantile(e.inference_ms, 99)},
                "video": f"episode_{e.seed}.mp4",
                "contact_sheet": f"episode_{e.seed}.png",
            }
            for e in episodes
        ],
    }


def _draw(episode: EpisodeResult, folder: Path) -> None:
    from dp_ros.sim.pusht_video import draw_episode, write_contact_sheet, write_mp4

    frames = draw_episode(episode, VIDEO_SIZE_PX)
    write_mp4(frames, folder / f"episode_{episode.seed}.mp4", VIDEO_RATE_HZ)
    write_contact_sheet(episode, folder / f"episode_{episode.seed}.png")
