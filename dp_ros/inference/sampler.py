"""The sampler in numbers: noise schedule, coefficients of DDIM, DDPM and DPM-Solver++, the noise of a draw.

numpy only, so that a robot needs neither torch nor diffusers; tests hold the coefficients against diffusers.
Easy to get wrong: the loop ends at noise level 0, not below it, so the last step lands on the clean sample only
because the level "before" it is defined as free of noise.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, model_validator

from dp_ros.task.later import WithLaterKeys

#: Logarithm of signal over noise below which DPM-Solver++ does not begin, the value that diffusers recommends for this
#: schedule.
LOWEST_LOG_RATIO = -5.1


class SamplerSpec(WithLaterKeys):
    """Noise schedule of the training and number of steps of the sampling."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    _later: ClassVar[frozenset[str]] = frozenset({"warm_start", "top_level"})

    train_steps: int = Field(default=100, ge=2, le=10000)
    """Number of noise levels in training."""
    beta_schedule: Literal["squaredcos_cap_v2"] = "squaredcos_cap_v2"
    prediction: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    """What the network predicts: the noise, the clean actions, or their velocity (Salimans and Ho, 2022, arXiv
    2202.00512), sqrt(signal share) * noise - sqrt(noise share) * clean."""
    clip_sample: bool = True
    """Whether the estimate of the clean actions is clipped to [-1, 1] at each step."""
    method: Literal["ddim", "ddpm", "dpmsolver++"] = "ddim"
    """DDIM (no noise after the first draw), DDPM (new noise at each step), or DPM-Solver++ (2M; Lu et al., 2022, arXiv
    2211.01095; like DDIM, and each step also looks at how the estimate of the clean actions moved in the last one)."""
    num_inference_steps: int = Field(default=10, ge=1)
    """Number of denoising steps."""
    temperature: float = Field(default=1.0, ge=0, le=2, allow_inf_nan=False)
    """Standard deviation of the noise that a draw starts from, and of what DDPM adds: below 1, draws lie closer to
    what the policy thinks most likely, and are less diverse; 0: the same chunk for every noise."""
    warm_start: float = Field(default=0.0, ge=0, lt=1, allow_inf_nan=False)
    """Share of the steps that are left out where a chunk is running: a draw then begins with what that one plans,
    noised to the level of the first step that is left (`steps_left_out`). 0: every draw begins with noise alone."""

    top_level: int | None = Field(default=None, ge=1)
    """Level that a draw with DPM-Solver++ begins at; None: the highest at which float32 can still tell clean actions
    from noise (`LOWEST_LOG_RATIO`). DDIM and DDPM begin one stride below `train_steps`."""

    @model_validator(mode="after")
    def _consistent(self) -> SamplerSpec:
        if self.num_inference_steps > self.train_steps:
            raise ValueError(
                f"num_inference_steps {self.num_inference_steps} is more than train_steps {self.train_steps}"
            )
        if self.method == "dpmsolver++" and 2 * self.num_inference_steps > self.train_steps:
            raise ValueError(
                f"num_inference_steps {self.num_inference_steps}: dpmsolver++ takes at most half of train_steps "
                f"{self.train_steps}"
            )
        if self.top_level is not None:
            if self.method != "dpmsolver++":
                raise ValueError(f"top_level {self.top_level}: is for dpmsolver++, method is {self.method}")
            if not self.num_inference_steps <= self.top_level < self.train_steps:
                raise ValueError(
                    f"top_level {self.top_level}: expected num_inference_steps {self.num_inference_steps} to "
                    f"{self.train_steps - 1}, one below train_steps"
                )
        return self


class DenoisingStep(NamedTuple):
    """One step from a noise level to the next lower one.

    With x the noisy actions and p the prediction of the network, clean = clip(x * clean_x + p * clean_p). Then

    - DDIM: x = clean * next_clean + noise * next_noise, with noise = x * noise_x + p * noise_p;
    - DDPM: x = clean * towards + x * keep + z * fresh, with z standard normal;
    - DPM-Solver++: x = clean * towards + x * keep + (clean - clean of the last step) * momentum.

    `clean * towards + x * keep` is also the DDIM step that leads to `clean` with the noise that x then holds;
    guidance takes it to lead to a planned action (`guidance_gain`).
    """

    level: int
    clean_x: float
    clean_p: float
    noise_x: float
    noise_p: float
    next_clean: float
    next_noise: float
    towards: float
    keep: float
    fresh: float
    noise_share: float
    """Share of noise in the variance of x at this level."""
    momentum: float = 0.0


def signal_shares(sampler: SamplerSpec) -> NDArray[np.float64]:
    """Share of signal variance left at each noise level (train_steps,), the cumulative product of 1 - beta.

    Squared-cosine schedule of Nichol and Dhariwal (2021, arXiv 2102.09672), betas capped at 0.999.
    """

    def remaining(time: float) -> float:
        return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2

    n = sampler.train_steps
    betas = [min(1 - remaining((i + 1) / n) / remaining(i / n), 0.999) for i in range(n)]
    return np.cumprod(1.0 - np.array(betas, dtype=np.float64), dtype=np.float64)


def denoising_steps(sampler: SamplerSpec, num_inference_steps: int | None = None) -> list[DenoisingStep]:
    """Coefficients of the loop, in the order in which the steps run ("leading" spacing, DPM-Solver++ "linspace").

    Equation 12 of Song et al. (2020, arXiv 2010.02502): eta = 0 is DDIM; eta = 1 is DDPM, with the variance that
    Ho et al. (2020, arXiv 2006.11239) call beta tilde.
    """
    levels = noise_levels(sampler, num_inference_steps)
    shares = signal_shares(sampler)
    steps: list[DenoisingStep] = []
    last_h = 0.0
    for k, level in enumerate(levels):
        share = float(shares[level])
        share_next = float(shares[levels[k + 1]]) if k + 1 < len(levels) else 1.0
        signal, noise = math.sqrt(share), math.sqrt(1 - share)
        if sampler.prediction == "epsilon":
            coefficients = (1 / signal, -noise / signal, 0.0, 1.0)
        elif sampler.prediction == "v_prediction":
            coefficients = (signal, -noise, noise, signal)
        else:
            coefficients = (0.0, 1.0, 1 / noise, -signal / noise)
        fresh = 0.0
        if sampler.method == "ddpm":
            fresh = math.sqrt((1 - share_next) / (1 - share) * (1 - share / share_next))
        next_signal, next_noise = math.sqrt(share_next), math.sqrt(max(1 - share_next - fresh**2, 0.0))
        momentum, h = 0.0, _log_ratio(share_next) - _log_ratio(share)
        if sampler.method == "dpmsolver++" and 0 < k < len(levels) - 1:
            momentum = (next_signal - next_noise * signal / noise) * h / (2 * last_h)
        last_h = h
        steps.append(
            DenoisingStep(
                level,
                *coefficients,
                next_clean=next_signal,
                next_noise=next_noise,
                towards=next_signal - next_noise * signal / noise,
                keep=next_noise / noise,
                fresh=fresh,
                noise_share=1 - share,
                momentum=momentum,
            )
        )
    return steps


def steps_left_out(sampler: SamplerSpec, num_inference_steps: int | None = None) -> int:
    """How many steps a draw leaves out that begins with a running chunk; one at least is made."""
    n = num_inference_steps or sampler.num_inference_steps
    return min(int(sampler.warm_start * n + 1e-9), n - 1)


def warm_steps(sampler: SamplerSpec, num_inference_steps: int | None = None) -> list[DenoisingStep]:
    """The steps of a draw that begins with a running chunk."""
    left = denoising_steps(sampler, num_inference_steps)[steps_left_out(sampler, num_inference_steps) :]
    return [left[0]._replace(momentum=0.0), *left[1:]]


def warm_noise(planned: Any, noise: Any, step: DenoisingStep) -> Any:
    """What a draw begins with before `step`: planned actions with noise, normalised; arrays of numpy or tensors."""
    return planned * math.sqrt(1.0 - step.noise_share) + noise * math.sqrt(step.noise_share)


def noise_levels(sampler: SamplerSpec, num_inference_steps: int | None = None) -> list[int]:
    """Levels of the steps, highest first: with DPM-Solver++ evenly from the top, else from one stride below."""
    n = num_inference_steps or sampler.num_inference_steps
    if sampler.method == "dpmsolver++":
        return [int(level) for level in np.linspace(0, _top_level(sampler), n + 1).round()[:0:-1]]
    stride = sampler.train_steps // n
    return list(range((n - 1) * stride, -1, -stride))


def _top_level(sampler: SamplerSpec) -> int:
    if sampler.top_level is not None:
        return sampler.top_level
    return sum(_log_ratio(share) >= LOWEST_LOG_RATIO for share in signal_shares(sampler)) - 1


def lowest_log_ratio(sampler: SamplerSpec) -> float:
    """Logarithm of signal over noise below which a draw with DPM-Solver++ does not begin."""
    if sampler.top_level is None:
        return LOWEST_LOG_RATIO
    return _log_ratio(float(signal_shares(sampler)[sampler.top_level])) - 1e-6


def _log_ratio(share: float) -> float:
    """Logarithm of signal over noise; infinite without noise."""
    return 0.5 * math.log(share / (1 - share)) if share < 1 else math.inf


def guidance_gain(weights: Any, noise_share: Any) -> Any:
    """How far the estimate of the clean actions moves towards planned ones of these weights, 0 to 1.

    Arrays of numpy or tensors, whose shapes go together; gives such a one.

    Real-time chunking (arXiv 2506.07339) samples with pseudo-inverse guidance (PiGDM, Song et al., 2023): the
    planned actions y are a measurement of the clean ones, and each step moves them by the gradient of the weighted
    error |y - clean(x)|, which runs backwards through the network. This is the same posterior step with that
    Jacobian replaced by the identity, so no gradient is needed and an ONNX graph can hold it: the clean action,
    known from x with variance r2 = 1 - alpha_bar as in PiGDM, is measured as y with variance (1 - w) / w, and the
    mean of both lies w r2 / (w r2 + 1 - w) of the way towards y. Weight 1 is an exact measurement: the row is y at
    every noise level, which is replacement. A weight below 1 decides early, where noise is large, which way a chunk
    goes, and leaves the last word to the network. What the identity loses is that other rows learn of y through the
    next evaluation of the network only.
    """
    return weights * noise_share / (weights * noise_share + (1.0 - weights))


def sampling_noise(seed: int, step: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Standard normal noise for the inference at control step `step`, the same on every machine.

    Counter-based, so that it depends on nothing but its arguments: what was drawn before does not matter.
    """
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, step])))
    return generator.standard_normal(shape, dtype=np.float32)


def inpainting_noise(noise: NDArray[np.float32], frame_dim: int) -> NDArray[np.float32]:
    """`noise` (horizon, action_dim) with as much for observations of `frame_dim` values beside it, a function of it.

    Shape (horizon, action_dim + frame_dim). The same on every machine, as `step_noise`.
    """
    return np.concatenate([noise, _noise_of(noise, (len(noise), frame_dim), b"observations")], axis=1)


def step_noise(noise: NDArray[np.float32], n_steps: int) -> NDArray[np.float32]:
    """Standard normal noise (n_steps, *noise.shape) for the steps of a DDPM draw that starts from `noise`.

    A function of `noise` alone, the same on every machine: its hash is the key of a counter-based generator. So a
    draw is decided by its first noise, whatever the sampler.
    """
    return _noise_of(noise, (n_steps, *noise.shape))


def _noise_of(
    noise: NDArray[np.float32], shape: tuple[int, ...], purpose: bytes = b""
) -> NDArray[np.float32]:
    """Standard normal noise that is decided by other noise and by what it is for."""
    hashed = hashlib.blake2b(
        np.ascontiguousarray(noise, dtype="<f4").tobytes(), digest_size=16, person=purpose
    )
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(hashed.digest(), "little")))
    return generator.standard_normal(shape, dtype=np.float32)
