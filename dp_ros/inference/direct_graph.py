"""ONNX graph of a policy that draws its chunk in one go: observation and noise in, actions out.

For policies without a denoising loop, where torch exports the whole at once. Easy to get wrong: the graph is made for
one observation, and it holds what `StatePolicy.actions_of` computes, random choices included, because these are
functions of the noise.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from dp_ros.errors import UserError
from dp_ros.inference.graph import exported_graph, save_graph
from dp_ros.inference.manifest import TensorSpec
from dp_ros.policies.baselines.state_policy import StatePolicy


class WholeDraw(nn.Module):
    """Streams (1, n_obs_steps, *shape), in the task's order, and noise to actions (1, horizon, action_dim)."""

    def __init__(self, policy: StatePolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, *tensors: Tensor) -> Tensor:
        """See the class; the last tensor is the noise."""
        observation = dict(zip(self.policy.task.observations, tensors[:-1], strict=True))
        return self.policy.actions_of(observation, tensors[-1])


def direct_inputs(policy: StatePolicy) -> dict[str, TensorSpec]:
    """What a draw takes: {stream: (1, n_obs_steps, *shape)} and `noise`.

    Raises:
        UserError: if a stream is called `noise`.
    """
    task = policy.task
    if "noise" in task.observations:
        raise UserError(f"task {task.name}: observation noise has the name of another input; rename it")
    shapes = {key: (1, task.n_obs_steps, *spec.shape) for key, spec in task.observations.items()}
    shapes["noise"] = (1, *policy.noise_shape)
    return {key: TensorSpec(shape=shape, dtype="float32") for key, shape in shapes.items()}


def write_direct_graph(policy: StatePolicy, path: Path) -> dict[str, TensorSpec]:
    """Write the whole draw of `policy` and return its inputs; its output is `action` (1, horizon, action_dim)."""
    inputs = direct_inputs(policy)
    graph = exported_graph(WholeDraw(policy), {key: spec.shape for key, spec in inputs.items()}, ["action"])
    save_graph(graph, path)
    return inputs
