"""Makes the policy that a recipe or a manifest names: a table from the network's kind to its class.

Easy to get wrong: what a task needs is checked before anything is made, so that a training that cannot work is
refused at once.
"""

from __future__ import annotations

from dp_ros.inference.manifest import AnyNetwork
from dp_ros.inference.sampler import SamplerSpec
from dp_ros.policies import diffusion
from dp_ros.policies.baselines import state_policy
from dp_ros.policies.baselines.bet import BetPolicy
from dp_ros.policies.baselines.ibc import IbcPolicy
from dp_ros.policies.baselines.lstm_gmm import LstmGmmPolicy
from dp_ros.policies.baselines.regression import RegressionPolicy
from dp_ros.policies.baselines.specs import BaselineSpec
from dp_ros.policies.normalizer import Statistics
from dp_ros.policies.policy import Policy
from dp_ros.task import TaskSpec

#: Class of each kind of network.
KINDS: dict[str, type[Policy]] = {
    "unet1d_state": diffusion.DiffusionPolicy,
    "unet1d": diffusion.DiffusionPolicy,
    "transformer": diffusion.DiffusionPolicy,
    "regression": RegressionPolicy,
    "lstm_gmm": LstmGmmPolicy,
    "bet": BetPolicy,
    "ibc": IbcPolicy,
}


def build_policy(task: TaskSpec, statistics: Statistics, network: AnyNetwork, sampler: SamplerSpec) -> Policy:
    """A policy with random weights. Raises UserError if task, network and statistics do not fit."""
    return KINDS[network.kind](task, statistics, network, sampler)  # type: ignore[call-arg]


def check_supported(task: TaskSpec, network: AnyNetwork) -> None:
    """Raise UserError for a task that a policy with this network cannot be trained for."""
    if isinstance(network, BaselineSpec):
        state_policy.check_supported(task, network)
    else:
        diffusion.check_supported(task, network)
