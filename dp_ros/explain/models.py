"""Policies to be compared, from model folders or training runs; each is known by the name of its folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dp_ros.errors import UserError
from dp_ros.inference.manifest import MANIFEST_FILE, load_manifest
from dp_ros.inference.torch import load_policy, sample_batch
from dp_ros.policies.policy import Policy
from dp_ros.sim.pusht_batch import SampleRequests
from dp_ros.training.evaluate import is_simulated, one_call
from dp_ros.training.trained_policy import load_trained


@dataclass(frozen=True)
class Explained:
    """A policy and what the figures call it."""

    name: str
    policy: Policy

    @property
    def kind(self) -> str:
        """Kind of its network."""
        return str(self.policy.network.kind)

    @property
    def sample_requests(self) -> SampleRequests:
        """The policy as `pusht_batch.rollouts` asks it."""
        return one_call(self.policy.task, partial(sample_batch, self.policy))


def load_explained(folders: Sequence[Path]) -> list[Explained]:
    """Load policies of the simulated robot.

    Raises:
        UserError: if a folder holds neither model nor run, its task is not one of the simulated robot, or two have
            the same name.
    """
    found: list[Explained] = []
    for folder in folders:
        if (folder / MANIFEST_FILE).is_file():
            policy = load_policy(folder, load_manifest(folder)).eval()
        else:
            policy, _ = load_trained(folder)
        if not is_simulated(policy.task):
            raise UserError(f"{folder}: its task {policy.task.name} is not one of the simulated robot")
        name = folder.resolve().name
        if any(name == other.name for other in found):
            raise UserError(f"{folder}: a second model called {name}; rename a folder to tell them apart")
        found.append(Explained(name, policy))
    return found
