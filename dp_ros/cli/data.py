"""Look at recordings, judge their episodes, put them together and take them apart.

    dp-ros data info demos.zarr
    dp-ros data check demos.zarr --json out/check.json     exit status 1 if an episode should not be learnt from
    dp-ros data plot demos.zarr 12 --out out/episode.png
    dp-ros data thumbnails demos.zarr --out out/episodes.png
    dp-ros data replay demos.zarr 12 --yes                 drive the robot along it (--sim: the simulated one)
    dp-ros data import bags/monday monday.zarr --from bag --task my_robot
    dp-ros data export demos.zarr demos.mcap --to mcap     or lerobot, rerun
    dp-ros data merge monday.zarr tuesday.zarr --out week.zarr
    dp-ros data split demos.zarr 0:40 --out train.zarr --rest held_out.zarr
    dp-ros data drop demos.zarr 3,17 --out clean.zarr      or --yes: in its place; the whole one is kept beside it
    dp-ros data mark demos.zarr 12 --success yes --operator anna     what a person says of it, afterwards

Episodes count from 0; 3,5,10:20 are 3, 5 and 10 to 19. The steps of a recording that is there are never changed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from dp_ros.cli import data_formats, replay
from dp_ros.cli.eval import require_writable
from dp_ros.data.layout import TAKEOVER, TIMESTAMP, UNMARKED
from dp_ros.data.replay_buffer import ReplayBuffer
from dp_ros.errors import UserError

_THUMBNAIL_PX, _COLUMNS = 128, 6  # three pictures of an episode, two episodes a row
_MARKS = {"yes": 1, "no": 0, "unknown": UNMARKED}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `dp-ros data`."""
    verbs = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def verb(name: str, does: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=text, description=text)
        added.set_defaults(does=does)
        return added

    one = verb("info", _info, "what a recording holds")
    one.add_argument("recording", type=Path)
    one = verb("check", _check, "what is wrong with its episodes")
    one.add_argument("recording", type=Path)
    one.add_argument("--json", metavar="FILE", type=Path, help="write the verdicts there")
    one.add_argument("--strict", action="store_true", help="exit with 1 for warnings, too")
    one = verb("plot", _plot, "draw all values of an episode over time")
    one.add_argument("recording", type=Path)
    one.add_argument("episode", type=int)
    one.add_argument("--out", metavar="PNG", type=Path, required=True)
    one = verb("thumbnails", _thumbnails, "a picture of each episode: first, middle and last frame")
    one.add_argument("recording", type=Path)
    one.add_argument("--camera", help="image stream (default: the first)")
    one.add_argument("--episodes", default=":", help="such as 0:40 (default: all)")
    one.add_argument("--out", metavar="PNG", type=Path, required=True)
    replay.add_arguments(verb("replay", replay.run, "drive the robot along the commands of an episode"))
    data_formats.add_import_arguments(
        verb("import", data_formats.run_import, "make a recording from another format")
    )
    data_formats.add_export_arguments(
        verb("export", data_formats.run_export, "write a recording as another format")
    )
    one = verb("merge", _merge, "put recordings of one task together in a new one")
    one.add_argument("recordings", type=Path, nargs="+")
    one.add_argument("--out", metavar="ZARR", type=Path, required=True)
    one = verb("split", _split, "copy some episodes to a new recording, and the rest to another")
    one.add_argument("recording", type=Path)
    one.add_argument("episodes", help="such as 0:40")
    one.add_argument("--out", metavar="ZARR", type=Path, required=True)
    one.add_argument("--rest", metavar="ZARR", type=Path, help="where the others go (default: nowhere)")
    one = verb("drop", _drop, "leave episodes out")
    one.add_argument("recording", type=Path)
    one.add_argument("episodes", help="such as 3,17")
    one.add_argument(
        "--out", metavar="ZARR", type=Path, help="a new recording (default: in place of this one)"
    )
    one.add_argument("--yes", action="store_true", help="do it in place")
    one = verb("mark", _mark, "say afterwards how an episode went, who demonstrated and what was to be done")
    one.add_argument("recording", type=Path)
    one.add_argument("episode", type=int)
    one.add_argument("--success", choices=_MARKS, help="how it went")
    one.add_argument("--instruction", metavar="TEXT", help="what the robot was to do; '' takes it out")
    one.add_argument("--operator", metavar="NAME", help="who demonstrated; '' takes it out")
    one.add_argument("--yes", action="store_true", help="also in place of what was said before")


def run(args: argparse.Namespace) -> int:
    """Do what was asked for."""
    status: int = args.does(args)
    return status


def _info(args: argparse.Namespace) -> int:
    buffer, console = ReplayBuffer.open(args.recording), Console()
    lengths = np.diff(buffer.episode_ends, prepend=0)
    task = buffer.task
    table = Table(title=f"{args.recording}", title_justify="left", show_header=False)
    table.add_row(
        "task", "not said" if task is None else f"{task.name} ({task.digest()}), {task.rate_hz:g} Hz"
    )
    table.add_row("episodes", str(buffer.n_episodes))
    if len(lengths):
        low, middle, high = lengths.min(), np.median(lengths), lengths.max()
        table.add_row("steps", f"{buffer.n_steps}; an episode has {low} to {high}, median {middle:g}")
    if task is not None:
        table.add_row("duration", f"{buffer.n_steps / task.rate_hz / 60:.1f} min")
    for key in buffer:
        first = buffer.rows(key, 0, 1)
        table.add_row(f"data/{key}", f"{list(first.shape[1:])} {first.dtype}")
    if TAKEOVER in buffer:
        table.add_row("taken over", f"{int((buffer[TAKEOVER] != 0).sum())} steps")
    pictures = f", pictures {buffer.storage}" if buffer.cameras else ""
    table.add_row("on the disk", f"{buffer.stored_bytes / 1e6:.1f} MB{pictures}")
    if buffer.unfinished_steps:
        table.add_row(
            "unfinished", f"{buffer.unfinished_steps} rows: being recorded, or left by a recorder that ended"
        )
    console.print(table)
    return 0


def _check(args: argparse.Namespace) -> int:
    from dp_ros.data.health import check_recording

    require_writable(args.json)
    buffer, console = ReplayBuffer.open(args.recording), Console()
    found = check_recording(buffer)
    for episode in found:
        for finding in episode.findings:
            console.print(
                f"episode {episode.index}: {finding.severity}: {finding.message}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
    counts = {name: sum(episode.verdict == name for episode in found) for name in ("ok", "warning", "error")}
    lags = [episode.lag_steps for episode in found if episode.lag_steps is not None]
    lag = f"; the state follows the commands by {np.median(lags):g} steps" if lags else ""
    console.print(
        f"{args.recording}: {len(found)} episodes: {counts['ok']} ok, {counts['warning']} with warnings, "
        f"{counts['error']} with errors{lag}",
        highlight=False,
        soft_wrap=True,
    )
    bad = [episode.index for episode in found if episode.verdict == "error"]
    if bad:
        chosen = ",".join(map(str, bad))
        console.print(
            f"leave them out with: dp-ros data drop {args.recording} {chosen} --out NEW.zarr",
            highlight=False,
            soft_wrap=True,
        )
    if args.json:
        report = {"recording": str(args.recording), "counts": counts}
        episodes = [{**asdict(episode), "verdict": episode.verdict} for episode in found]
        args.json.write_text(json.dumps({**report, "episodes": episodes}, indent=2) + "\n", encoding="utf-8")
    return int(bool(bad) or (args.strict and counts["warning"] > 0))


def _plot(args: argparse.Namespace) -> int:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    require_writable(args.out)
    buffer = ReplayBuffer.open(args.recording)
    buffer.require_episode(args.episode)
    arrays = buffer.episode(args.episode)
    times = arrays.pop(TIMESTAMP, None)
    vectors = {key: values for key, values in arrays.items() if values.ndim <= 2}
    if times is None:
        times = np.arange(len(next(iter(arrays.values()))))
    figure, panels = pyplot.subplots(
        len(vectors),
        1,
        figsize=(9, 1.2 + 2.0 * len(vectors)),
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    for axes, (key, values) in zip(panels[:, 0], vectors.items(), strict=True):
        axes.plot(times, values.reshape(len(values), -1), linewidth=1.0)
        axes.set_title(key, loc="left", fontsize=10)
        axes.grid(alpha=0.3)
    panels[-1, 0].set_xlabel("time, s" if TIMESTAMP in buffer else "step")
    figure.suptitle(
        f"{args.recording.name}, episode {args.episode}", x=0.02, ha="left", fontsize=11, weight="bold"
    )
    figure.savefig(args.out, dpi=110)
    pyplot.close(figure)
    Console().print(f"{args.out}: {len(vectors)} streams", highlight=False, soft_wrap=True)
    return 0


def _thumbnails(args: argparse.Namespace) -> int:
    import cv2

    from dp_ros.data.pictures import thumbnail
    from dp_ros.data.surgery import parse_episodes
    from dp_ros.sim.pusht_view import contact_sheet

    require_writable(args.out)
    buffer = ReplayBuffer.open(args.recording)
    cameras = buffer.cameras
    camera = args.camera or next(iter(cameras), None)
    if camera is None or camera not in cameras:
        raise UserError(
            f"{args.recording}: has no camera {camera or ''}; it has {', '.join(cameras) or 'none'}"
        )
    encoding = buffer.encoding(camera)
    frames, captions = [], []
    for index in parse_episodes(args.episodes, buffer.n_episodes):
        begin = int(buffer.episode_ends[index - 1]) if index else 0
        end = int(buffer.episode_ends[index])
        for row in (begin, (begin + end - 1) // 2, end - 1):
            frames.append(thumbnail(buffer.rows(camera, row, row + 1)[0], _THUMBNAIL_PX, encoding))
            captions.append(f"{index}: step {row - begin}")
    sheet = contact_sheet(frames, _COLUMNS, captions)
    try:
        written = cv2.imwrite(str(args.out), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    except cv2.error:
        written = False
    if not written:
        raise UserError(f"{args.out}: cannot be written as a picture; give a name that ends in .png")
    Console().print(f"{args.out}: {len(frames) // 3} episodes of {camera}", highlight=False, soft_wrap=True)
    return 0


def _merge(args: argparse.Namespace) -> int:
    from dp_ros.data.surgery import copy_episodes

    buffers = [ReplayBuffer.open(path) for path in args.recordings]
    n = copy_episodes([(buffer, range(buffer.n_episodes)) for buffer in buffers], args.out)
    Console().print(f"{args.out}: {n} episodes of {len(buffers)} recordings", highlight=False, soft_wrap=True)
    return 0


def _split(args: argparse.Namespace) -> int:
    from dp_ros.data.surgery import copy_episodes, parse_episodes

    buffer = ReplayBuffer.open(args.recording)
    chosen = parse_episodes(args.episodes, buffer.n_episodes)
    others = [index for index in range(buffer.n_episodes) if index not in set(chosen)]
    parts = [(args.out, chosen)] + ([(args.rest, others)] if args.rest else [])
    for path, _ in parts:
        if path.exists():
            raise UserError(f"{path}: is there already; give another name")
    if args.rest and not others:
        raise UserError(
            f"--rest: all {buffer.n_episodes} episodes are chosen, nothing is left for {args.rest}"
        )
    for path, episodes in parts:
        copy_episodes([(buffer, episodes)], path)
        Console().print(f"{path}: {len(episodes)} episodes", highlight=False, soft_wrap=True)
    return 0


def _drop(args: argparse.Namespace) -> int:
    from dp_ros.data.surgery import copy_episodes, parse_episodes, replace_with

    buffer, console = ReplayBuffer.open(args.recording), Console()
    dropped = parse_episodes(args.episodes, buffer.n_episodes)
    kept = [index for index in range(buffer.n_episodes) if index not in set(dropped)]
    if not kept:
        raise UserError(f"{args.recording}: nothing would be left; remove the recording instead")
    if args.out:
        copy_episodes([(buffer, kept)], args.out)
        console.print(
            f"{args.out}: {len(kept)} of {buffer.n_episodes} episodes", highlight=False, soft_wrap=True
        )
        return 0
    if not args.yes:
        raise UserError(
            f"{args.recording}: would hold {len(kept)} of its {buffer.n_episodes} episodes, without "
            f"{', '.join(map(str, dropped))}; the whole one would be kept beside it. Say --yes to do that, or "
            "--out for a new recording"
        )
    whole = replace_with(args.recording, kept)
    console.print(
        f"{args.recording}: {len(kept)} of {buffer.n_episodes} episodes; all of them are in {whole}",
        highlight=False,
        soft_wrap=True,
    )
    return 0


def _mark(args: argparse.Namespace) -> int:
    from dp_ros.data.surgery import Label, label_episode

    texts = {"instruction": args.instruction, "operator": args.operator}
    given = {key: text for key, text in texts.items() if text is not None}
    if args.success is None and not given:
        raise UserError("nothing to say: give --success, --instruction or --operator")
    label = Label(None if args.success is None else _MARKS[args.success], given)
    label_episode(args.recording, args.episode, label, replace=args.yes)
    said = [f"success {args.success}"] if args.success else []
    said += [f"{key} {text!r}" if text else f"no {key}" for key, text in given.items()]
    Console().print(
        f"{args.recording}: episode {args.episode}: {', '.join(said)}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return 0
