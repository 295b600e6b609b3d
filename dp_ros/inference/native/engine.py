"""Engine in compiled code: the U-Net and its denoising loop, made for the CPU and for one chunk at a time.

Many times as fast as eager torch, because with batch 1 most of the time goes into calling small operators and
into convolutions over 4 to 16 steps that no library is made for. Pictures are encoded once each, by a ResNet in
compiled code as well, by other encoders in ONNX Runtime. Easy to get wrong: the arithmetic is that of
`policies/unet1d.py` and of `policies/diffusion.py` written a third time, beside torch and the ONNX graph; tests hold
all of them against diffusers. The call releases the GIL.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from dp_ros.errors import UserError
from dp_ros.inference.engine import CheckedEngine, Rows, draw_warm_and_cold
from dp_ros.inference.manifest import (
    WEIGHTS_FILE,
    Manifest,
    ManifestError,
    NetworkSpec,
    encoder_file,
    verify_file,
)
from dp_ros.inference.native.encoder import resnet_of, resnets_of
from dp_ros.inference.native.layout import (
    BFLOATS,
    BYTES_BYTES,
    BYTES_SHORTS,
    FLOATS,
    KERNEL_SIZES,
    Convolution,
    UnetLayout,
)
from dp_ros.inference.native.library import SPIN, Floats, library, why_no_library
from dp_ros.inference.ranges import scale_and_offset
from dp_ros.inference.sampler import (
    SamplerSpec,
    denoising_steps,
    guidance_gain,
    step_noise,
    steps_left_out,
    warm_noise,
    warm_steps,
)
from dp_ros.policies.specs import UnetSpec, conditioning_of
from dp_ros.runtime.prefix import Prefix

#: Engines by what their weights are.
KINDS = {"native": FLOATS, "native_int8": BYTES_SHORTS, "native_w8a8": BYTES_BYTES, "native_bf16": BFLOATS}
_NEEDED_BY_KIND = {"native_int8": "AVX2", "native_w8a8": "AVX-512 VNNI", "native_bf16": "AVX-512 BF16"}
#: Of a row with a matrix, for which OpenBLAS takes no further thread (its GEMM_MULTITHREAD_THRESHOLD).
MOST_PRODUCTS = 9216


class NativeEngine(CheckedEngine):
    """Runs a diffusion U-Net from a model folder's weights.

    Args:
        folder: the model folder.
        manifest: its manifest.
        threads: CPU threads of one inference.
        num_inference_steps: denoising steps; None for what the manifest says.
        kind: of the weights, a key of KINDS: `native` float32; `native_int8` 8 bits, each output of a convolution with
            its own scale; `native_w8a8` the same, and the inputs of a convolution of 8 bits as well; `native_bf16`
            bfloat16 for both.
        spin: whether threads wait awake for one another.

    Raises:
        UserError: if it cannot run here (`why_not`), or the weights are not those of the manifest's network.
    """

    name = "native"
    batches = True

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        threads: int = 1,
        num_inference_steps: int | None = None,
        *,
        kind: str = "native",
        spin: bool = True,
    ) -> None:
        super().__init__(manifest, manifest.task_spec(str(folder)))
        self.name = kind
        reason = why_not(manifest)
        if not reason and not library().dp_unet1d_has(KINDS[kind]):
            reason = f"this processor has no {_NEEDED_BY_KIND[kind]}, which {kind} computes with"
        if reason:
            raise UserError(f"engine {self.name}: {reason}; use engine auto")
        network = manifest.network
        assert isinstance(network, NetworkSpec | UnetSpec)
        path = verify_file(folder, manifest, WEIGHTS_FILE)
        try:
            stored = load_file(path)
            weights = {key.removeprefix("unet."): value for key, value in stored.items()}
            layout = UnetLayout(
                weights,
                rows=self.task.horizon,
                action_dim=self.task.action.dim,
                kernel_size=network.kernel_size,
                groups=network.groups,
                mask=network.prefix_steps > 0,
                kind=KINDS[kind],
            )
            if layout.widths != network.widths:
                raise ValueError(f"widths are {layout.widths}, the manifest says {network.widths}")
            film = weights["film.weight"], weights["film.bias"]
            embedded = _step_embedding(weights, network.step_dim)
            encoders = resnets_of(stored, manifest, self.task, threads, SPIN if spin else 0)
        except UserError:  # no memory, no thread
            raise
        except (SafetensorError, KeyError, ValueError) as error:
            raise ManifestError(f"{path}: does not fit the network of the manifest: {error!r}") from error
        self._steps = steps = denoising_steps(manifest.sampler, num_inference_steps)
        self._n_steps = len(steps)
        self._first = steps_left_out(manifest.sampler, num_inference_steps)
        self._coefficients = np.array([step[1:] for step in steps], np.float32)
        warm = warm_steps(manifest.sampler, num_inference_steps)
        self._warm_coefficients = np.array([step[1:] for step in warm], np.float32)
        self._noise_shares = np.array([step.noise_share for step in steps], np.float32)
        levels = np.array([step.level for step in steps])
        self._step_films = _mish(embedded(levels)) @ film[0][:, : network.step_dim].T + film[1]
        self._observation_film = in_slices(film[0][:, network.step_dim :].T)  # (O, F)
        self._ranges = {
            key: scale_and_offset(found["min"], found["max"]) for key, found in manifest.normalization.items()
        }
        longest = self.task.n_obs_steps - 1 + network.prefix_steps if network.prefix_steps else 0
        self._can_be_known = np.arange(self.task.horizon) < longest
        if encoders is None and any(spec.is_image for spec in self.task.observations.values()):
            from dp_ros.inference.onnx_encoder import encoders_of

            encoders = encoders_of(folder, manifest, self.task, threads)
        self._encoders = encoders
        self._network = _Network(layout, manifest.sampler, threads, SPIN if spin else 0)

    def sample_batch(
        self, observation: Mapping[str, NDArray[Any]], noise: Floats, prefix: Prefix | None = None
    ) -> Floats:
        """See `Engine.sample_batch`."""
        seen = {key: np.asarray(value) for key, value in observation.items()}
        rows = [
            self.encode_pictures({key: value[i] for key, value in seen.items()}) for i in range(len(noise))
        ]
        for key in rows[0] if rows else ():
            seen[key] = np.stack([row[key] for row in rows])
        return self._finite(self._draw(seen, noise, prefix))

    def _compute(self, observation: dict[str, NDArray[Any]], noise: Floats, prefix: Prefix | None) -> Floats:
        given = None if prefix is None else prefix[None]
        return self._draw({key: value[None] for key, value in observation.items()}, noise[None], given)[0]

    def _draw(self, observation: Mapping[str, NDArray[Any]], noise: Floats, prefix: Prefix | None) -> Floats:
        """Actions (B, horizon, dim) in robot units, for B of everything; of cameras `observation` has the features."""

        def draw(rows: Rows, warm: bool) -> Floats:
            seen = {key: value[rows] for key, value in observation.items()}
            return self._denoise(seen, noise[rows], None if prefix is None else prefix[rows], warm)

        return draw_warm_and_cold(self.manifest.sampler, len(noise), prefix, draw)

    def _denoise(
        self, observation: Mapping[str, NDArray[Any]], noise: Floats, prefix: Prefix | None, warm: bool
    ) -> Floats:
        """As `_draw`, all of them with or all without a warm start."""
        # Row by row: a product of matrices would round a row by how many others there are.
        films = np.stack(
            [
                np.concatenate([row @ part for part in self._observation_film])
                for row in _mish(self._condition(observation))
            ]
        )
        sampler, first = self.manifest.sampler, self._first if warm else 0
        coefficients = self._warm_coefficients if warm else self._coefficients
        fresh = None
        if sampler.method == "ddpm":
            drawn = [step_noise(each, self._n_steps) for each in noise]
            fresh = np.stack(drawn, axis=1)[first:] * np.float32(sampler.temperature)
        scale, offset = self._ranges["action"]
        planned = gains = known = None
        if prefix is not None:
            planned = prefix.actions * scale + offset
            gains = guidance_gain(prefix.weights[None], self._noise_shares[first:, None, None])
            known = ((prefix.weights >= 1) & self._can_be_known).astype(np.float32)
        begin = noise * np.float32(sampler.temperature)
        if first:
            assert planned is not None
            begin = warm_noise(planned, begin, self._steps[first])
        actions = self._network.draw(
            begin,
            films,
            self._step_films[first:],
            coefficients,
            fresh=fresh,
            planned=planned,
            gains=gains,
            known=known,
        )
        actions = (actions - offset) / scale
        if prefix is None:
            return actions
        return np.where(prefix.weights[..., None] >= 1, prefix.actions, actions)

    def _condition(self, observation: Mapping[str, NDArray[Any]]) -> Floats:
        """What the U-Net is told of observations {stream: (B, n_obs_steps, *shape or F)}: (B, O), normalised."""
        parts = []
        for key, spec in self.task.observations.items():
            seen = observation[key]
            if spec.is_image:
                parts.append(seen)
                continue
            scale, offset = self._ranges[key]
            parts.append(seen.reshape(*seen.shape[:2], -1) * scale + offset)
        joined = np.concatenate(parts, axis=-1)  # (B, n_obs_steps, D)
        return joined.reshape(len(joined), -1)


class _Network:
    """A network in the library's memory.

    Args:
        layout: the network.
        sampler: its method, and whether it clips.
        threads: CPU threads.
        spin: turns that they wait awake for one another.
    """

    def __init__(self, layout: UnetLayout, sampler: SamplerSpec, threads: int, spin: int) -> None:
        self._library, self._film = library(), layout.film
        operations = (Convolution * len(layout.operations))(*layout.operations)
        x, out = layout.input, layout.output
        mask = x.channels - out.channels
        self._handle = self._library.dp_unet1d_create(
            *(operations, len(operations), _pointer(layout.parameters), layout.parameters.size),
            *(layout.bytes.ctypes.data, layout.bytes.size),
            *(layout.sample_floats, layout.film, x.rows, out.channels, mask),
            *(
                x.at,
                x.stride,
                out.at,
                out.stride,
                int(sampler.clip_sample),
                int(sampler.method == "dpmsolver++"),
                threads,
                spin,
            ),
        )
        if not self._handle:
            raise UserError(f"engine native: no memory or no thread for the model ({threads} threads)")

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._library.dp_unet1d_destroy(self._handle)

    def draw(
        self,
        noise: Floats,
        films: Floats,
        step_films: Floats,
        coefficients: Floats,
        *,
        fresh: Floats | None,
        planned: Floats | None,
        gains: Floats | None,
        known: Floats | None,
    ) -> Floats:
        """Normalised actions (B, T, A).

        Args:
            noise: (B, T, A).
            films: (B, F), the observation's part of the condition.
            step_films: (K, F), that of the noise levels.
            coefficients: (K, 11), of a `DenoisingStep` without its level.
            fresh: (K, B, T, A) noise that steps add, for DDPM.
            planned: (B, T, A) normalised actions of a prefix; None: there is none.
            gains: (K, B, T) how far each step is led towards them.
            known: (B, T) which of them the network is given.
        """
        shape = noise.shape
        assert films.shape == (len(noise), self._film)
        arrays = [noise, fresh, films, step_films, coefficients, planned, gains, known]
        whole = [None if each is None else np.ascontiguousarray(each, np.float32) for each in arrays]
        actions = np.empty(shape, np.float32)
        pointers = [None if each is None else _pointer(each) for each in whole]
        if self._library.dp_unet1d_draw(
            self._handle, len(noise), len(step_films), *pointers, _pointer(actions)
        ):
            raise MemoryError("engine native: out of memory")
        return actions


def in_slices(matrix: Floats) -> list[Floats]:
    """A matrix (O, F) in slices of columns so small that OpenBLAS multiplies a row with one in the calling thread.

    Its other threads would spin for milliseconds after each product, on the core that is left to others or on that of
    a second thread of the network. Products of the shapes that occur are the same, bit for bit.
    """
    columns = max(MOST_PRODUCTS // len(matrix) // 16, 1) * 16
    return [
        np.ascontiguousarray(matrix[:, k : k + columns], np.float32)
        for k in range(0, matrix.shape[1], columns)
    ]


def why_not(manifest: Manifest) -> str:
    """Why a model cannot be run here; empty if it can."""
    network = manifest.network
    if not isinstance(network, NetworkSpec | UnetSpec):
        return f"it is made for U-Nets, the model's network is {network.kind}"
    if conditioning_of(network) != "global":
        return f"it is made for conditioning global, the model's is {conditioning_of(network)}"
    if network.kernel_size not in KERNEL_SIZES:
        return f"kernel_size is {network.kernel_size}, it is made for {', '.join(map(str, KERNEL_SIZES))}"
    if getattr(network, "vision", None) is not None and resnet_of(network) is None:
        cameras = [key for key, spec in manifest.task_spec().observations.items() if spec.is_image]
        absent = [name for name in map(encoder_file, cameras) if name not in manifest.files]
        if absent:
            return f"the model has no {', '.join(absent)}; export it again"
        if importlib.util.find_spec("onnxruntime") is None:
            return "onnxruntime, which encodes pictures, is not installed"
    return why_no_library()


def _pointer(array: Floats) -> int:
    return array.ctypes.data


def _mish(x: Floats) -> Floats:
    e = np.exp(np.minimum(x, np.float32(20)))
    q = e * (e + 2)
    return np.asarray(x * (q / (q + 2)), np.float32)


def _step_embedding(weights: dict[str, Floats], dim: int) -> Callable[[NDArray[np.integer]], Floats]:
    """Levels (K,) to embeddings (K, dim), as `ConditionalUnet1d.step_embedding`."""
    half = dim // 2
    frequencies = np.exp(np.arange(half, dtype=np.float32) * np.float32(-(math.log(10000.0) / (half - 1))))
    w1, b1 = weights["step_embedding.1.weight"], weights["step_embedding.1.bias"]
    w2, b2 = weights["step_embedding.3.weight"], weights["step_embedding.3.bias"]

    def embed(levels: NDArray[np.integer]) -> Floats:
        angles = levels[:, None].astype(np.float32) * frequencies
        waves = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
        return np.asarray(_mish(waves @ w1.T + b1) @ w2.T + b2, np.float32)

    return embed
