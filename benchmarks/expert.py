"""Runs the scripted PushT operator over seed ranges and prints how many it solves, how fast and how smoothly.

    nice python benchmarks/expert.py 100000:100050 0:500 [--noise 3] [--push 12 --travel 24]

`--noise` perturbs the executed target (Gaussian, px), as in the recording of recovery data. Smoothness is the
mean length of the second difference of the targets, px per step^2.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from dp_ros.sim.pusht import MAX_STEPS, PushT
from dp_ros.sim.pusht_expert import SMOOTH_PX_PER_STEP, PushTExpert


def run_episode(seed: int, noise_px: float, expert: PushTExpert) -> tuple[PushT, np.ndarray, float]:
    """One episode; returns the world at its end, the targets (N, 2) and the expert's and world's CPU seconds."""
    start = time.process_time()
    world, draw = PushT(), np.random.default_rng(seed)
    world.reset(seed)
    expert.reset(seed)
    targets = []
    for _ in range(MAX_STEPS):
        target = expert.act(world.state)
        targets.append(target)
        if world.step(target + draw.normal(scale=noise_px, size=2) if noise_px else target).done:
            break
    return world, np.array(targets), time.process_time() - start


def main() -> None:
    """Parse the command line, run, print one line per range."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ranges", nargs="+", help="seed ranges, first:last+1")
    parser.add_argument(
        "--noise", type=float, default=0.0, help="px of Gaussian noise on the executed target"
    )
    parser.add_argument("--push", type=float, default=SMOOTH_PX_PER_STEP[0], help="px per step while pushing")
    parser.add_argument("--travel", type=float, default=SMOOTH_PX_PER_STEP[1], help="px per step otherwise")
    arguments = parser.parse_args()
    expert = PushTExpert(push_px_per_step=arguments.push, travel_px_per_step=arguments.travel)
    for text in arguments.ranges:
        first, last = (int(part) for part in text.split(":"))
        steps, cpu_s, roughness, failed = [], [], [], []
        for seed in range(first, last):
            world, targets, seconds = run_episode(seed, arguments.noise, expert)
            cpu_s.append(seconds)
            roughness.append(np.linalg.norm(np.diff(targets, n=2, axis=0), axis=1).mean())
            if world.success:
                steps.append(world.steps)
            else:
                failed.append((seed, round(world.score, 3)))
        print(
            f"seeds {text}: solved {len(steps)} of {last - first}; steps mean {np.mean(steps):.1f} "
            f"max {np.max(steps)}; CPU s mean {np.mean(cpu_s):.2f} max {np.max(cpu_s):.2f}; "
            f"roughness {np.mean(roughness):.2f} px/step^2; failed (seed, score): {failed}",
            flush=True,
        )


if __name__ == "__main__":
    main()
