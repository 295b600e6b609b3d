"""The sampler of a policy as one ONNX graph: normalise, denoise K times, unnormalise; pictures have another one.

torch exports two pieces, the observation's half of FiLM and one denoising step; the step is then repeated in the
graph with shared weights, which takes seconds where exporting the unrolled loop takes minutes.
Noise levels are constants of the schedule, so their embedding and their half of FiLM are computed here and
stored. Easy to get wrong: the graph has its own arithmetic of DDIM and DDPM, so it must be held against the loop
of diffusers (`export` does).
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

from dp_ros.errors import UserError
from dp_ros.inference.manifest import (
    PREFIX_INPUT,
    PREFIX_WEIGHTS_INPUT,
    STEP_NOISE_INPUT,
    WARM_START_INPUT,
    TensorSpec,
)
from dp_ros.inference.sampler import DenoisingStep, denoising_steps, steps_left_out, warm_steps
from dp_ros.inference.step import ObservationHalf, OneStep
from dp_ros.policies.diffusion import DiffusionPolicy

OPSET = 18
IR_VERSION = 10  # what ONNX Runtime 1.18 and later read


def write_graph(policy: DiffusionPolicy, path: Path) -> dict[str, TensorSpec]:
    """Write the sampler of `policy` and return its inputs; its output is `action` (1, horizon, action_dim).

    Inputs are {stream: (1, n_obs_steps, *shape)}, of cameras the features (1, n_obs_steps, F) of their pictures,
    `noise`, for DDPM `step_noise`, and optionally `prefix` and `prefix_weights`, whose default weights of 0 change
    nothing, and for a sampler with a warm start `warm_start` (1,), which above 0 begins the draw with `prefix`.
    """
    task = policy.task
    streams = {
        key: (1, task.n_obs_steps, *((policy.features_of(key),) if spec.is_image else spec.shape))
        for key, spec in task.observations.items()
    }
    own = ("noise", STEP_NOISE_INPUT, PREFIX_INPUT, PREFIX_WEIGHTS_INPUT, WARM_START_INPUT)
    taken = [key for key in streams if key in own]
    if taken:
        raise UserError(f"task {task.name}: observation {taken[0]} has the name of another input; rename it")
    actions, weights = (1, task.horizon, task.action.dim), (1, task.horizon)
    trajectory = (1, *policy.trajectory_shape)
    steps = denoising_steps(policy.sampler)
    masked, noisy = policy.unet.mask_channel, policy.sampler.method == "ddpm"
    multistep = policy.sampler.method == "dpmsolver++"
    with torch.inference_mode():
        films = policy.unet.condition_of_step(torch.tensor([step.level for step in steps])).numpy()
    width = films.shape[1]
    step_inputs = {"x": trajectory, "observation_film": (1, width), "step_film": (1, width)}
    step_inputs |= {"coefficients": (len(_coefficients(steps[0])),), "planned": actions, "weights": weights}
    step_inputs |= {"known": weights} if masked else {}
    step_inputs |= {"fresh": trajectory} if noisy else {}
    step_inputs |= {"previous": trajectory} if multistep else {}
    head = exported_graph(ObservationHalf(policy), streams, ["film"])
    body = exported_graph(OneStep(policy), step_inputs, ["next", "clean"] if multistep else ["next"])

    graph = _Graph()
    inputs = {
        key: TensorSpec(shape=shape, dtype="float32")
        for key, shape in {**streams, "noise": trajectory}.items()
    }
    if noisy:
        inputs[STEP_NOISE_INPUT] = TensorSpec(shape=(len(steps), *trajectory[1:]), dtype="float32")
    for name, shape in ((PREFIX_INPUT, actions), (PREFIX_WEIGHTS_INPUT, weights)):
        inputs[name] = TensorSpec(shape=shape, dtype="float32", optional=True)
        graph.constant(name, np.zeros(shape, np.float32))
    graph.add(head, "observation/", {**{key: key for key in streams}, "film": "observation_film"})
    _add_prefix(graph, policy)
    x = _tempered(graph, "noise", policy.sampler.temperature)
    step_noise = _tempered(graph, STEP_NOISE_INPUT, policy.sampler.temperature) if noisy else ""
    if multistep:
        graph.constant("clean/none", np.zeros(trajectory, np.float32))

    def denoise(k: int, x: str, clean: str, coefficients: str) -> None:
        """Append step number `k`: from `x` and the last clean estimate to `actions/k` and `clean/k`."""
        graph.constant(f"film/{k}", films[k][None])
        names = {"x": x, "observation_film": "observation_film", "step_film": f"film/{k}"}
        names |= {"coefficients": coefficients, "planned": "prefix/planned", "weights": PREFIX_WEIGHTS_INPUT}
        names |= {"known": "prefix/known", "fresh": f"fresh/{k}", "next": f"actions/{k}"}
        names |= {"previous": clean, "clean": f"clean/{k}"}
        if noisy:
            graph.constant(f"number/{k}", np.array([k]))
            graph.node("Gather", [step_noise, f"number/{k}"], f"fresh/{k}", axis=0)
        graph.add(body, f"step{k}/", names, shared="network/")

    for k, step in enumerate(steps):
        graph.constant(f"coefficients/{k}", _coefficients(step))
    first, clean = steps_left_out(policy.sampler), "clean/none"
    coefficients = [f"coefficients/{k}" for k in range(len(steps))]
    if first:
        inputs[WARM_START_INPUT] = TensorSpec(shape=(1,), dtype="float32", optional=True)
        graph.constant(WARM_START_INPUT, np.zeros(1, np.float32))
        graph.constant("warm/none", np.zeros(1, np.float32))
        graph.node("Greater", [WARM_START_INPUT, "warm/none"], "warm")
        graph.constant("warm/coefficients", _coefficients(warm_steps(policy.sampler)[0]))
        graph.node("Where", ["warm", "warm/coefficients", coefficients[first]], "coefficients/first")
        coefficients[first] = "coefficients/first"
        with graph.branch() as warm:
            graph.constant("warm/signal", np.full(1, np.sqrt(1 - steps[first].noise_share), np.float32))
            graph.constant("warm/noise", np.full(1, np.sqrt(steps[first].noise_share), np.float32))
            graph.node("Mul", ["prefix/planned", "warm/signal"], "warm/planned")
            graph.node("Mul", [x, "warm/noise"], "warm/noisy")
            graph.node("Add", ["warm/planned", "warm/noisy"], "warm/x")
            if multistep:
                graph.node("Identity", ["clean/none"], "warm/clean")
        with graph.branch() as cold:
            for k in range(first):
                before = (f"actions/{k - 1}", f"clean/{k - 1}") if k else (x, clean)
                denoise(k, *before, coefficients[k])
        ends = {"first/x": ("warm/x", f"actions/{first - 1}")}
        ends |= {"first/clean": ("warm/clean", f"clean/{first - 1}")} if multistep else {}
        graph.choose("warm", warm, cold, ends, trajectory)
        x, clean = "first/x", "first/clean"
    for k in range(first, len(steps)):
        denoise(k, x, clean, coefficients[k])
        x, clean = f"actions/{k}", f"clean/{k}"
    if policy.inpainted_dim:
        for name, value in (("begin", 0), ("end", task.action.dim), ("axis", 2)):
            graph.constant(f"action/{name}", np.array([value]))
        graph.node("Slice", [x, "action/begin", "action/end", "action/axis"], "action/alone")
        x = "action/alone"
    graph.node("Sub", [x, "action/offset"], "action/shifted")
    graph.node("Div", ["action/shifted", "action/scale"], "action/drawn")
    graph.constant("prefix/last", np.array([2]))
    graph.node("Unsqueeze", ["prefix/fixed", "prefix/last"], "prefix/fixed/column")
    graph.node("Where", ["prefix/fixed/column", PREFIX_INPUT, "action/drawn"], "action")
    graph.save(path, inputs, {"action": TensorSpec(shape=actions, dtype="float32")})
    return inputs


class _OnePicture(nn.Module):
    """A picture (1, height, width, channels) uint8 of one camera to features (1, F)."""

    def __init__(self, policy: DiffusionPolicy, camera: str) -> None:
        super().__init__()
        self.policy, self.camera = policy, camera

    def forward(self, picture: Tensor) -> Tensor:
        """See the class."""
        assert self.policy.vision is not None
        features: Tensor = self.policy.vision(self.camera, picture.unsqueeze(0))
        return features.squeeze(0)


def write_encoder(policy: DiffusionPolicy, camera: str, path: Path) -> None:
    """Write the graph that `encoder_file` describes."""
    shape = (1, *policy.task.observations[camera].shape)
    save_graph(
        exported_graph(_OnePicture(policy, camera), {"picture": shape}, ["features"], ["picture"]), path
    )


def save_graph(graph: Any, path: Path) -> None:
    """Write a graph as a model that ONNX Runtime reads, once it is seen to be a valid one."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="dp_ros")
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _tempered(graph: _Graph, noise: str, temperature: float) -> str:
    """Name of the input `noise` once it is scaled."""
    if temperature == 1.0:
        return noise
    graph.constant(f"{noise}/temperature", np.full(1, temperature, np.float32))
    graph.node("Mul", [noise, f"{noise}/temperature"], f"{noise}/tempered")
    return f"{noise}/tempered"


def _add_prefix(graph: _Graph, policy: DiffusionPolicy) -> None:
    """The prefix as the steps take it, as `DiffusionPolicy.normalize_prefix` gives it: `prefix/planned` etc."""
    normalizer = policy.normalizers["action"]
    graph.constant("action/offset", np.asarray(normalizer.offset))
    graph.constant("action/scale", np.asarray(normalizer.scale))
    graph.constant("prefix/one", np.ones(1, np.float32))
    graph.node("Mul", [PREFIX_INPUT, "action/scale"], "prefix/scaled")
    graph.node("Add", ["prefix/scaled", "action/offset"], "prefix/planned")
    graph.node("GreaterOrEqual", [PREFIX_WEIGHTS_INPUT, "prefix/one"], "prefix/fixed")
    if policy.unet.mask_channel:
        graph.constant("prefix/trained", policy.rows_taken_as_known()[None].numpy())
        graph.node("And", ["prefix/fixed", "prefix/trained"], "prefix/known/bool")
        graph.node("Cast", ["prefix/known/bool"], "prefix/known", to=TensorProto.FLOAT)


class _Graph:
    """An ONNX graph put together from exported pieces."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self._constants: dict[str, Any] = {}

    @contextlib.contextmanager
    def branch(self) -> Iterator[list[Any]]:
        """What is appended meanwhile goes into the list that is given, for `choose`."""
        outside, self.nodes = self.nodes, []
        try:
            yield self.nodes
        finally:
            self.nodes = outside

    def choose(
        self,
        condition: str,
        then: list[Any],
        otherwise: list[Any],
        ends: dict[str, tuple[str, str]],
        shape: Sequence[int],
    ) -> None:
        """Append one of two lists of nodes; `ends` says what each calls the values that come out, all of a shape."""

        def part(nodes: list[Any], which: int) -> Any:
            outputs = [
                helper.make_tensor_value_info(names[which], TensorProto.FLOAT, shape)
                for names in ends.values()
            ]
            return helper.make_graph(nodes, f"{condition}/{which}", [], outputs)

        branches = {"then_branch": part(then, 0), "else_branch": part(otherwise, 1)}
        self.nodes.append(helper.make_node("If", [condition], list(ends), f"{condition}/node/if", **branches))

    def node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> None:
        """Append one node."""
        self.nodes.append(helper.make_node(operator, inputs, [output], f"{output}/node", **attributes))

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

    def save(self, path: Path, inputs: dict[str, TensorSpec], outputs: dict[str, TensorSpec]) -> None:
        types = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8}

        def infos(ends: dict[str, TensorSpec]) -> list[Any]:
            return [
                helper.make_tensor_value_info(name, types[spec.dtype], spec.shape)
                for name, spec in ends.items()
            ]

        constants = list(self._constants.values())
        graph = helper.make_graph(self.nodes, "diffusion_policy", infos(inputs), infos(outputs), constants)
        save_graph(graph, path)


def _coefficients(step: DenoisingStep) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array(step[1:], dtype=np.float32)


def exported_graph(
    module: nn.Module, inputs: Mapping[str, Sequence[int]], outputs: list[str], images: Sequence[str] = ()
) -> Any:
    """ONNX graph of `module` with inputs of these names and shapes, float32 but for `images`, which are uint8."""
    example = tuple(
        torch.zeros(tuple(shape), dtype=torch.uint8 if key in images else torch.float32)
        for key, shape in inputs.items()
    )
    with _quiet():
        program = torch.onnx.export(
            module.eval(),
            example,
            input_names=list(inputs),
            output_names=outputs,
            opset_version=OPSET,
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
