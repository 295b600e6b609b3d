"""The sampler of a policy as one ONNX graph: normalise, denoise K times, unnormalise.

torch exports two pieces, the observation's half of FiLM and one DDIM step; the step is then repeated in the
graph with shared weights, which takes seconds where exporting the unrolled loop takes minutes. Noise levels
are constants of the schedule, so their embedding and their half of FiLM are computed here and stored. Easy to
get wrong: the graph has its own DDIM arithmetic, so it must be held against the loop of diffusers (`export`
does).
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from dp_ros.inference.sampler import DdimStep, ddim_steps
from dp_ros.policies.diffusion import DiffusionPolicy

_OPSET = 18
_IR_VERSION = 10  # what ONNX Runtime 1.18 and later read


class ObservationHalf(nn.Module):
    """Streams (1, n_obs_steps, *shape), in the task's order, to the observation's half of FiLM (1, F)."""

    def __init__(self, policy: DiffusionPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, *streams: Tensor) -> Tensor:
        """See the class."""
        observation = dict(zip(self.policy.task.observations, streams, strict=True))
        return self.policy.unet.film_of_observation(self.policy.encode(observation))


class OneStep(nn.Module):
    """One DDIM step; `coefficients` (6,) are those of a `DdimStep` without its level."""

    def __init__(self, policy: DiffusionPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, x: Tensor, observation_film: Tensor, step_film: Tensor, coefficients: Tensor) -> Tensor:
        """Map noisy actions (1, T, A) to less noisy ones."""
        clean_x, clean_p, noise_x, noise_p, next_clean, next_noise = coefficients.unbind()
        p = self.policy.unet.denoise(x, observation_film + step_film)
        clean = x * clean_x + p * clean_p
        noise = x * noise_x + p * noise_p
        if self.policy.sampler.clip_sample:
            clean = clean.clamp(-1.0, 1.0)
        return clean * next_clean + noise * next_noise


def write_graph(policy: DiffusionPolicy, path: Path) -> None:
    """Write the sampler of `policy`: {stream: (1, n_obs_steps, *shape)} and `noise` to `action`."""
    task = policy.task
    streams = {key: (1, task.n_obs_steps, *spec.shape) for key, spec in task.observations.items()}
    actions = (1, task.horizon, task.action.dim)
    steps = ddim_steps(policy.sampler)
    with torch.inference_mode():
        films = policy.unet.film_of_step(torch.tensor([step.level for step in steps])).numpy()
    width = films.shape[1]
    head = _exported(ObservationHalf(policy), streams, "film")
    step_inputs = {
        "x": actions,
        "observation_film": (1, width),
        "step_film": (1, width),
        "coefficients": (6,),
    }
    body = _exported(OneStep(policy), step_inputs, "next")

    graph = _Graph()
    graph.add(head, "observation/", {**{key: key for key in streams}, "film": "observation_film"})
    x = "noise"
    for k, (step, film) in enumerate(zip(steps, films, strict=True)):
        graph.constant(f"film/{k}", film[None])
        graph.constant(f"ddim/{k}", _coefficients(step))
        names = {"x": x, "observation_film": "observation_film", "step_film": f"film/{k}"}
        names |= {"coefficients": f"ddim/{k}", "next": f"actions/{k}"}
        graph.add(body, f"step{k}/", names, shared="network/")
        x = f"actions/{k}"
    normalizer = policy.normalizers["action"]
    graph.constant("action/offset", np.asarray(normalizer.offset))
    graph.constant("action/scale", np.asarray(normalizer.scale))
    graph.nodes.append(helper.make_node("Sub", [x, "action/offset"], ["shifted"], "action/shift"))
    graph.nodes.append(helper.make_node("Div", ["shifted", "action/scale"], ["action"], "action/unscale"))
    graph.save(path, {**streams, "noise": actions}, {"action": actions})


class _Graph:
    """An ONNX graph put together from exported pieces."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self._constants: dict[str, Any] = {}

    def constant(self, name: str, value: np.ndarray[Any, Any]) -> None:
        self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)

    def add(self, piece: Any, prefix: str, names: dict[str, str], shared: str | None = None) -> None:
        """Append the nodes of `piece`, `prefix` before inner names; `names` says what its ends are called.

        Its weights are called `shared` + name, so that further copies use the same ones.
        """
        names = dict(names)
        for weight in piece.initializer:
            name = (shared or prefix) + weight.name
            names[weight.name] = name
            if name not in self._constants:
                self._constants[name] = onnx.TensorProto()
                self._constants[name].CopyFrom(weight)
                self._constants[name].name = name
        for node in piece.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name = prefix + node.name
            for ends in (copy.input, copy.output):
                ends[:] = [names.get(end, prefix + end) if end else "" for end in ends]
            del copy.metadata_props[:]  # where in the source the exporter found it
            self.nodes.append(copy)

    def save(
        self, path: Path, inputs: dict[str, tuple[int, ...]], outputs: dict[str, tuple[int, ...]]
    ) -> None:
        def infos(ends: dict[str, tuple[int, ...]]) -> list[Any]:
            return [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ends.items()
            ]

        constants = list(self._constants.values())
        graph = helper.make_graph(self.nodes, "diffusion_policy", infos(inputs), infos(outputs), constants)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", _OPSET)], producer_name="dp_ros"
        )
        model.ir_version = _IR_VERSION
        onnx.checker.check_model(model)
        onnx.save(model, str(path))


def _coefficients(step: DdimStep) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array(step[1:], dtype=np.float32)


def _exported(module: nn.Module, inputs: Mapping[str, Sequence[int]], output: str) -> Any:
    """ONNX graph of `module` with float32 inputs of these names and shapes."""
    example = tuple(torch.zeros(tuple(shape)) for shape in inputs.values())
    with _quiet():
        program = torch.onnx.export(
            module.eval(),
            example,
            input_names=list(inputs),
            output_names=[output],
            opset_version=_OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return program.model_proto.graph


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, which logs every node and warns of libraries that are not used here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
