"""Makes the policy that a recipe or a manifest names: a table from the network's kind to its class.

Easy to get wrong: what a task needs is checked before anything is made, so that a training that cannot work is
refused at once.
"""

from __future__ import annotations

from dp_ros.inference.manifest import NetworkSpec
from dp_ros.inference.sampler import SamplerSpec
from dp_ros.policies import diffusion
from dp_ros.policies.normalizer import Statistics
from dp_ros.policies.policy import Policy
from dp_ros.task import TaskSpec

#: Class of each kind of network.
KINDS: dict[str, type[Policy]] = {"unet1d_state": diffusion.DiffusionPolicy}


def build_policy(
    task: TaskSpec, statistics: Statistics, network: NetworkSpec, sampler: SamplerSpec
) -> Policy:
    """A policy with random weights. Raises UserError if task, network and statistics do not fit."""
    return KINDS[network.kind](task, statistics, network, sampler)  # type: ignore[call-arg]


def check_supported(task: TaskSpec, network: NetworkSpec) -> None:
    """Raise UserError for a task that a policy with this network cannot be trained for."""
    diffusion.check_supported(task)
