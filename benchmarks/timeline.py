"""Draws docs/timeline.png: an observation, its inference, its chunk and its seam on one time axis.

    python benchmarks/timeline.py [FILE]

Nothing in it is drawn by hand: the runtime's own controller and schedule run against a simulated camera, joints and
an inference of 0.32 s, and what they did is plotted. The policy is a stand-in whose chunks disagree by a little,
as those of a diffusion policy do.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dp_ros.runtime.controller import Controller
from dp_ros.runtime.execution import InferenceRequest
from dp_ros.runtime.motion.chunk import ActionChunk
from dp_ros.runtime.supervisor import SafetyOptions
from dp_ros.task import TaskSpec

S = 1_000_000_000
MS = S // 1000
BEGIN_NS = 1_000 * S
INFERENCE_NS = 320 * MS
CAMERA_LATENCY_NS, CAMERA_PERIOD_NS = 80 * MS, S // 30
SHOWN_S = (1.28, 3.55)
#: Titles lie over the links between the rows.
TITLE_BOX = {"facecolor": "white", "edgecolor": "none", "pad": 2.0}
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#7A5AA6")

TASK: dict[str, Any] = {
    "name": "timeline",
    "rate_hz": 10,
    "n_obs_steps": 2,
    "horizon": 16,
    "n_action_steps": 8,
    "observations": {
        "camera": {
            "topic": "/camera/points",
            "type": "geometry_msgs/msg/PointStamped",
            "fields": ["x"],
            "shape": [1],
            "latency_s": CAMERA_LATENCY_NS / S,
            "max_age_s": 0.3,
            "alignment": "asof",
        },
        "joints": {
            "topic": "/joint_states",
            "type": "sensor_msgs/msg/JointState",
            "fields": ["position"],
            "names": ["joint"],
            "shape": [1],
            "max_age_s": 0.1,
            "alignment": "interpolate",
        },
    },
    "action": {
        "topic": "/joint_trajectory",
        "type": "trajectory_msgs/msg/JointTrajectory",
        "output": "trajectory",
        "names": ["joint"],
        "shape": [1],
        "state": "joints",
        "limits": {
            "position": {"min": [-3.0], "max": [3.0]},
            "velocity": [4.0],
            "acceleration": [25.0],
            "jerk": [600.0],
        },
    },
}


@dataclass
class Inference:
    """One inference and what came of it."""

    requested_ns: int
    request: InferenceRequest
    actions: np.ndarray
    accepted_ns: int = 0
    chunk: ActionChunk | None = None
    #: What was commanded from the seam on, had nothing come after this chunk.
    tail: tuple[np.ndarray, np.ndarray] | None = None


@dataclass
class Run:
    """Everything that happened."""

    captures_ns: list[int] = field(default_factory=list)
    arrivals_ns: list[int] = field(default_factory=list)
    inferences: list[Inference] = field(default_factory=list)
    commanded_ns: list[int] = field(default_factory=list)
    commanded: list[float] = field(default_factory=list)


def intention(time_ns: np.ndarray | float, chunk: int) -> np.ndarray:
    """Where the policy wants to be; each chunk sees it a little differently."""
    t = (np.asarray(time_ns, dtype=np.float64) - BEGIN_NS) / S
    disagreement = (0.0, -0.10, 0.12, -0.10)[chunk % 4]
    return 0.75 * np.sin(2.1 * t - 0.6) + 0.3 + disagreement


def simulate() -> Run:
    """The controller on a fake clock of 1 ms."""
    task = TaskSpec.from_dict(TASK)
    controller = Controller(task, immediate=False, safety=SafetyOptions(soft_start_s=0.0))
    run, pending = Run(), None
    position = float(intention(BEGIN_NS, 0))
    next_capture_ns = BEGIN_NS - 10 * CAMERA_PERIOD_NS
    captures: list[int] = []
    begun = False
    for now_ns in range(BEGIN_NS - 400 * MS, BEGIN_NS + round(SHOWN_S[1] * S) + 100 * MS, MS):
        tick = False
        while next_capture_ns + CAMERA_LATENCY_NS <= now_ns:
            # The header stamp is that of the arrival; the task says how much earlier the light fell in.
            captures.append(next_capture_ns)
            controller.buffer.add(
                "camera", next_capture_ns + CAMERA_LATENCY_NS, np.zeros(1, np.float32), now_ns=now_ns
            )
            run.captures_ns.append(next_capture_ns)
            run.arrivals_ns.append(now_ns)
            next_capture_ns += CAMERA_PERIOD_NS
            tick = True
        if now_ns % (10 * MS) == 0:
            controller.buffer.add("joints", now_ns, np.array([position], np.float32), now_ns=now_ns)
        if now_ns == BEGIN_NS:
            controller.start(now_ns, seed=0, time_limit_s=60.0)
            begun = tick = True
        if pending is not None and now_ns >= pending.requested_ns + INFERENCE_NS:
            accepted = controller.accept(
                pending.request, pending.actions, now_ns=now_ns, inference_ns=INFERENCE_NS
            )
            assert isinstance(accepted, ActionChunk), accepted
            pending.accepted_ns, pending.chunk = now_ns, accepted
            times = np.arange(now_ns, now_ns + 1300 * MS, 5 * MS)
            values = [controller.schedule.commanded_at(int(t)) for t in times]
            pending.tail = times, np.array([np.nan if v is None else v[0] for v in values])
            pending, tick = None, True
        if begun and tick:
            found = controller.tick(now_ns)
            assert found.stop is None, found.stop
            if found.request is not None:
                grid = found.request.window.stamp_ns + task.dt_ns * np.arange(-1, 15)
                actions = intention(grid, len(run.inferences))[:, None]
                pending = Inference(now_ns, found.request, actions)
                run.inferences.append(pending)
        state = controller.schedule.commanded_at(now_ns)
        if begun and state is not None and controller.outlet.is_open:
            position = float(state[0])
            run.commanded_ns.append(now_ns)
            run.commanded.append(position)
    return run


def draw(run: Run, path: Path) -> None:
    """Plot a run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import ConnectionPatch

    def s(time_ns: Any) -> Any:
        return (np.asarray(time_ns) - BEGIN_NS) / S

    style: Any = {
        "font.size": 10.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
    }
    with pyplot.rc_context(style):
        figure, (top, middle, bottom) = pyplot.subplots(
            3, 1, sharex=True, figsize=(12, 8), height_ratios=[0.8, 0.8, 3.4], layout="constrained"
        )
        _observations(top, run, s)
        _inferences(middle, run, s)
        _commands(bottom, run, s)
        for inference, color in _colored(run):
            seen, begin, end = (
                s(t)
                for t in (inference.request.window.stamp_ns, inference.requested_ns, inference.accepted_ns)
            )
            low = bottom.get_ylim()[0]
            for (x, y, here), (to_x, to_y, there), line in (
                ((seen, 1, top), (begin, 0, middle), ":"),
                ((end, 0, middle), (end, low, bottom), "-"),
            ):
                link = ConnectionPatch(
                    (x, y), (to_x, to_y), "data", "data", axesA=here, axesB=there, color=color, linestyle=line
                )
                link.set(linewidth=1.4, alpha=0.8, zorder=0)
                figure.add_artist(link)
        for axes in (top, middle, bottom):
            axes.patch.set_visible(False)  # the links between the rows lie behind them
        for axes in (top, middle):
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
            axes.spines["bottom"].set_visible(False)
            axes.tick_params(bottom=False)
        bottom.set_xlim(*SHOWN_S)
        bottom.set_xlabel("time since the goal began, s")
        figure.savefig(path, dpi=130)
        pyplot.close(figure)


def _colored(run: Run) -> list[tuple[Inference, str]]:
    """The inferences in view that gave a chunk, each with its colour."""
    first, last = (BEGIN_NS + round(t * S) for t in SHOWN_S)
    colored = [(run.inferences[i], COLORS[i % len(COLORS)]) for i in range(len(run.inferences))]
    return [(i, c) for i, c in colored if i.chunk is not None and first < i.accepted_ns < last]


def _observations(axes: Any, run: Run, s: Any) -> None:
    axes.set_title(
        "Observation: pictures count from when they were taken, 80 ms before they arrive", bbox=TITLE_BOX
    )
    for capture, arrival in zip(s(run.captures_ns), s(run.arrivals_ns), strict=True):
        if SHOWN_S[0] <= capture and arrival <= SHOWN_S[1]:
            axes.plot([capture, arrival], [1, 0], color="0.85", linewidth=0.8, zorder=0)
            axes.plot([capture], [1], "|", color="0.3", markersize=11)
            axes.plot([arrival], [0], "|", color="0.65", markersize=11)
    for inference, color in _colored(run):
        stamp = s(inference.request.window.stamp_ns)
        axes.plot([stamp - 0.1, stamp], [1, 1], "o-", color=color, markersize=8, linewidth=2.5)
    axes.set_ylim(-0.4, 1.4)
    axes.text(SHOWN_S[0] - 0.01, 1, "taken", ha="right", va="center", color="0.3")
    axes.text(SHOWN_S[0] - 0.01, 0, "arrived", ha="right", va="center", color="0.55")


def _inferences(axes: Any, run: Run, s: Any) -> None:
    axes.set_title(
        f"Inference: {INFERENCE_NS / MS:.0f} ms from the two observation steps to a chunk of actions"
    )
    for inference, color in _colored(run):
        begin, end = s(inference.requested_ns), s(inference.accepted_ns)
        axes.barh(0, end - begin, left=begin, height=0.8, color=color)
        name = f"chunk {run.inferences.index(inference) + 1}"
        axes.text((begin + end) / 2, 0, name, ha="center", va="center", color="white", fontweight="bold")
    axes.set_ylim(-0.6, 0.6)


def _commands(axes: Any, run: Run, s: Any) -> None:
    from matplotlib.lines import Line2D

    axes.set_title("Chunk and seam: what the policy predicted, and what the robot is told", bbox=TITLE_BOX)
    axes.plot(s(run.commanded_ns), run.commanded, color="black", linewidth=3, zorder=5)
    done = [i for i in run.inferences if i.chunk is not None]
    for number, inference in enumerate(done):
        color, chunk = COLORS[number % len(COLORS)], inference.chunk
        assert chunk is not None and inference.tail is not None
        grid = inference.request.window.stamp_ns + 100 * MS * np.arange(15)
        values = inference.actions[1:, 0]
        end_ns = done[number + 1].accepted_ns if number + 1 < len(done) else np.inf
        late, over = grid < chunk.start_ns, grid >= end_ns
        used = ~late & ~over
        point = {"color": color, "markersize": 7}
        axes.plot(s(grid[late]), values[late], "x", markeredgewidth=2, zorder=6, **point)
        axes.plot(s(grid[used]), values[used], "o", zorder=6, **point)
        axes.plot(s(grid[over]), values[over], "o", markerfacecolor="white", zorder=4, **point)
        axes.plot(s(inference.tail[0]), inference.tail[1], "--", color=color, linewidth=1.4, zorder=3)
    inside = (s(run.commanded_ns) >= SHOWN_S[0]) & (s(run.commanded_ns) <= SHOWN_S[1])
    shown = np.array(run.commanded)[inside]
    axes.set_ylim(shown.min() - 0.3, shown.max() + 0.2)
    axes.set_ylabel("joint, rad")
    grey: Any = {"color": "0.35", "linestyle": "none", "markersize": 7}
    axes.figure.legend(
        handles=[
            Line2D([], [], color="black", linewidth=3, label="commanded: smooth across every seam"),
            Line2D([], [], marker="x", markeredgewidth=2, label="late: dropped, never shifted", **grey),
            Line2D([], [], marker="o", label="action to be followed", **grey),
            Line2D([], [], marker="o", markerfacecolor="white", label="replaced by the next chunk", **grey),
            Line2D([], [], color="0.35", linestyle="--", label="had nothing come: brake and stand"),
            Line2D([], [], color="0.35", alpha=0.7, label="seam"),
        ],
        loc="outside lower center",
        ncols=3,
        frameon=False,
    )


def main() -> None:
    """Draw to the file given, by default docs/timeline.png."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "docs" / "timeline.png"
    draw(simulate(), target)
    print(target)


if __name__ == "__main__":
    main()
