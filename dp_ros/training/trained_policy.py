"""The policy of a training run, ready to be asked.

Easy to get wrong: `best` and `last` hold averaged weights besides those that the optimiser works on, and it is the
averaged ones that are evaluated and exported.
"""

from __future__ import annotations

from pathlib import Path

from dp_ros.inference.sampler import SamplerSpec
from dp_ros.policies.build import build_policy
from dp_ros.policies.policy import Policy
from dp_ros.training.checkpoint import Progress, checkpoint_path, load_weights
from dp_ros.training.run_folder import open_run


def load_trained(
    run: Path, checkpoint: str = "best", sampler: SamplerSpec | None = None
) -> tuple[Policy, Progress]:
    """Averaged weights of a run in its policy, in evaluation mode, and where the run was.

    Args:
        run: folder of the run.
        checkpoint: which weights: best, last, or the step of a checkpoint that was kept.
        sampler: instead of the recipe's.

    Raises:
        UserError: if it is no run, or has no such checkpoint.
    """
    record = open_run(run)
    config = record.config
    policy = build_policy(record.task_spec(run), record.statistics, config.network, sampler or config.sampler)
    progress = load_weights(checkpoint_path(run, checkpoint), policy)
    return policy.eval(), progress
