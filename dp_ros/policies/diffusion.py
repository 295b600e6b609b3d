"""Diffusion policy: actions are drawn by removing noise from them step by step, given the observation.

    time, in steps of the task       t-1   t   t+1  ...  t+7  ...  t+14
    observed (n_obs_steps = 2)        o    o
    predicted (horizon = 16)          a    a    a   ...   a   ...   a
    executed (n_action_steps = 8)          a    a   ...   a

Training is DDPM (Ho et al., 2020, arXiv 2006.11239), running is DDIM (Song et al., 2020, arXiv 2010.02502) or
DDPM, with the schedulers of diffusers; policy and recipe are those of Diffusion Policy (Chi et al., 2023,
arXiv 2303.04137). Easy to get wrong: the first predicted action belongs to the *oldest* observation, not to
now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dp_ros.errors import UserError
from dp_ros.inference.manifest import NetworkSpec
from dp_ros.inference.sampler import (
    SamplerSpec,
    denoising_steps,
    guidance_gain,
    inpainting_noise,
    step_noise,
    steps_left_out,
    warm_noise,
)
from dp_ros.policies.normalizer import MinMaxNormalizer, Statistics
from dp_ros.policies.policy import Batch, Draw, Policy
from dp_ros.policies.schedulers import next_trajectory, noising_scheduler, scheduler_of
from dp_ros.policies.specs import TransformerSpec, UnetSpec, conditioning_of, labels_of, observed_steps
from dp_ros.policies.transformer import ActionTransformer
from dp_ros.policies.unet1d import ConditionalUnet1d
from dp_ros.policies.vision import VisionEncoder
from dp_ros.task import TaskSpec

DiffusionNetwork = NetworkSpec | UnetSpec | TransformerSpec


class DiffusionPolicy(Policy):
    """Policy for tasks whose observations are vectors, pictures (with `network.vision`) or both.

    Args:
        task: what is observed and commanded.
        statistics: `{stream or "action": {"min": [...], "max": [...]}}` of the training data; pictures need none.
        network: shape of the network.
        sampler: noise schedule and what the network predicts.

    Raises:
        UserError: if the network does not suit what the task observes or its horizon, or statistics are
        missing.
    """

    def __init__(
        self, task: TaskSpec, statistics: Statistics, network: DiffusionNetwork, sampler: SamplerSpec
    ) -> None:
        super().__init__()
        check_supported(task, network)
        self.task, self.network, self.sampler = task, network, sampler
        self.statistics = {key: dict(value) for key, value in statistics.items()}
        if sampler.warm_start and conditioning_of(network) == "inpainting":
            raise UserError(
                "sampler.warm_start: a network conditioned by inpainting draws observations too, and no chunk plans "
                "those; take conditioning global or local, or warm_start 0"
            )
        longest = task.horizon - (task.n_obs_steps - 1) - 1
        if network.prefix_steps > longest:
            raise UserError(
                f"task {task.name}: prefix_steps {network.prefix_steps} leaves nothing to predict of horizon "
                f"{task.horizon} with n_obs_steps {task.n_obs_steps}; expected at most {longest}"
            )
        cameras = {key: spec for key, spec in task.observations.items() if spec.is_image}
        ranged = [key for key in (*task.observations, *self.labels, "action") if key not in cameras]
        missing = [key for key in ranged if key not in statistics]
        if missing:
            raise UserError(f"normalisation: nothing for {', '.join(missing)}; train on data that has it")
        self.normalizers = nn.ModuleDict(
            {key: MinMaxNormalizer(statistics[key]["min"], statistics[key]["max"]) for key in ranged}
        )
        vision = getattr(network, "vision", None)
        for key, features in labels_of(network).items():
            if features != (size := len(statistics[key]["min"])):
                raise UserError(
                    f"network.vision.features: got {features}, but {key}, which the encoder predicts, has {size} "
                    f"values; set it to {size}"
                )
        pixels = {key: statistics[key] for key in cameras if key in statistics}
        self.vision = VisionEncoder(cameras, vision, pixels) if vision is not None else None
        frame_dim = sum(spec.dim for key, spec in task.observations.items() if key not in cameras)
        frame_dim += len(cameras) * (vision.features if vision is not None else 0)
        self.unet: ConditionalUnet1d | ActionTransformer
        if isinstance(network, TransformerSpec):
            self.unet = ActionTransformer(
                task.action.dim,
                frame_dim,
                task.horizon,
                task.n_obs_steps,
                width=network.width,
                layers=network.layers,
                heads=network.heads,
                mask_channel=network.prefix_steps > 0,
            )
            return
        self.unet = ConditionalUnet1d(
            task.action.dim,
            task.n_obs_steps * frame_dim,
            widths=network.widths,
            step_dim=network.step_dim,
            kernel_size=network.kernel_size,
            groups=network.groups,
            mask_channel=network.prefix_steps > 0,
            conditioning=network.conditioning,
            n_obs_steps=task.n_obs_steps,
        )
        if network.conditioning == "inpainting":
            self.inpainted_dim = frame_dim

    #: Values of an observation that are denoised beside those of an action; 0 unless conditioned by inpainting.
    inpainted_dim: int = 0

    @property
    def trajectory_shape(self) -> tuple[int, int]:
        """What is denoised: (horizon, action_dim), with inpainting (horizon, action_dim + frame_dim)."""
        return (self.task.horizon, self.task.action.dim + self.inpainted_dim)

    @property
    def labels(self) -> tuple[str, ...]:
        """See `Policy.labels`: what `network.vision.predicts` names."""
        return tuple(labels_of(self.network))

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """See `Policy.parameter_groups`; a transformer's norms, biases and positions do not decay."""
        if not isinstance(self.unet, ActionTransformer):
            return super().parameter_groups(weight_decay)
        chosen = {id(parameter) for parameter in self.unet.decayed()}
        vision = [] if self.vision is None else list(self.vision.parameters())
        decayed = [p for p in self.unet.parameters() if id(p) in chosen] + vision
        others = [p for p in self.unet.parameters() if id(p) not in chosen]
        return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Load the weights of another policy of this shape, with or without a mask channel.

        A mask channel that it does not have begins with weights of zero, so that without a prefix both are equal. An
        encoder that predicts a stream stays as it is where the other policy observes that stream.

        Raises:
            RuntimeError: if the weights are of another network.
        """
        own = self.state_dict()
        padded = dict(weights)
        if self.labels and not any(key.startswith("vision.") for key in weights):
            padded |= {key: value for key, value in own.items() if key.startswith("vision.")}
        for key, value in weights.items():
            wanted = own[key].shape if key in own else value.shape
            is_input = value.dim() == 3 or key == "unet.action_in.weight"
            if self.unet.mask_channel and is_input and wanted[1] == value.shape[1] + 1:
                padded[key] = F.pad(value, (0, 0, 0, 1) if value.dim() == 3 else (0, 1))
        self.load_state_dict(padded)

    def encode(self, observation: Mapping[str, Tensor], places: Mapping[str, Tensor] | None = None) -> Tensor:
        """Flatten observations {stream: (B, n_obs_steps, *shape)} in robot units to one normalised (B, O).

        `places` says where pictures are cropped, {stream: (B, 2)} from 0 to below 1; None: in the middle.
        """
        return _joined(self._frames(observation, places))

    def features_of(self, camera: str) -> int:
        """Features of a picture of a camera."""
        with torch.inference_mode():
            picture = torch.zeros((1, 1, *self.task.observations[camera].shape), dtype=torch.uint8)
            assert self.vision is not None
            return self.vision(camera, picture).shape[-1]

    def condition_of(self, streams: Sequence[Tensor]) -> Tensor:
        """What `encode` gives, (B, O), of streams (B, n_obs_steps, *shape) in the task's order, robot units.

        Of cameras it takes the features (B, n_obs_steps, F) that `vision` gave of the pictures.
        """
        frames = {
            key: seen if spec.is_image else self.normalizers[key].normalize(seen.flatten(2))  # type: ignore[operator]
            for (key, spec), seen in zip(self.task.observations.items(), streams, strict=True)
        }
        return _joined(frames)

    def _frames(
        self,
        observation: Mapping[str, Tensor],
        places: Mapping[str, Tensor] | None = None,
        n: int | None = None,
    ) -> dict[str, Tensor]:
        """Each stream as the network takes it, (B, n, F): features of pictures, normalised values.

        Frames after the first `n` (None: n_obs_steps) are what is still to come, and not looked at.
        """
        frames = {}
        for key, spec in self.task.observations.items():
            seen = observation[key][:, : n or self.task.n_obs_steps]
            if spec.is_image and self.vision is not None:
                frames[key] = self.vision(key, seen, places[key] if places else None)
            else:
                frames[key] = self.normalizers[key].normalize(seen.flatten(2))  # type: ignore[operator]
        return frames

    def _trajectory(self, actions: Tensor, frames: Mapping[str, Tensor]) -> Tensor:
        """What is to be denoised, (B, *trajectory_shape), normalised.

        Of pictures it has the features as they are now: an encoder does not learn to be easy to predict.
        """
        clean: Tensor = self.normalizers["action"].normalize(actions)  # type: ignore[operator]
        if not self.inpainted_dim:
            return clean
        return torch.cat([clean, *(each.detach() for each in frames.values())], dim=-1)

    def _condition(self, frames: Mapping[str, Tensor]) -> Tensor:
        """(B, O) of those that are observed."""
        return _joined({key: each[:, : self.task.n_obs_steps] for key, each in frames.items()})

    def loss(self, batch: Batch, draw: Draw) -> Tensor:
        """Mean squared error of the prediction at noise and noise levels that are drawn, and that of the labels.

        The labels' is the mean absolute error in their normalised range of 2. Where it is all there is to learn
        (`action_weight` 0), the newest picture of each sample is enough: the older ones hardly differ.
        """
        noise = draw.normal(len(batch), *self.trajectory_shape).to(batch.actions.device)
        level = draw.integers(self.sampler.train_steps, len(batch)).to(batch.actions.device)
        known = None if batch.known is None else batch.known.to(batch.actions.device)
        places = None
        if self.training and self.vision is not None:
            places = {key: draw.uniform(len(batch), 2) for key in self.vision.cameras}
        if batch.action_weight == 0.0 and self.labels:
            newest = {key: value[:, -1:] for key, value in batch.observation.items()}
            return batch.auxiliary_weight * self._label_error(newest, self._frames(newest, places)).mean()
        frames = self._frames(batch.observation, places, observed_steps(self.network, self.task))
        trajectory = self._trajectory(batch.actions, frames)
        loss = self._prediction_loss(
            self._condition(frames), trajectory, noise, level, known, batch.known_noise
        )
        if not self.labels:
            return loss
        error = self._label_error(batch.observation, frames).mean()
        return batch.action_weight * loss + batch.auxiliary_weight * error

    def label_errors(self, observation: Mapping[str, Tensor]) -> dict[str, float]:
        """See `Policy.label_errors`."""
        if not self.labels:
            return {}
        error = self._label_error(observation, self._frames(observation))
        return {key: (error / self.normalizers[key].scale).mean().item() for key in self.labels}  # type: ignore[operator]

    def _label_error(self, observation: Mapping[str, Tensor], frames: Mapping[str, Tensor]) -> Tensor:
        """Absolute errors (B, n, features), normalised, of what `frames` says of the label in `observation`."""
        (key,), (camera,) = self.labels, self.vision.cameras  # type: ignore[union-attr]
        found = frames[camera]
        wanted = self.normalizers[key].normalize(observation[key][:, : found.shape[1]].flatten(2))  # type: ignore[operator]
        return (found - wanted).abs()

    def prediction_loss(
        self,
        observation: Mapping[str, Tensor],
        actions: Tensor,
        noise: Tensor,
        step: Tensor,
        known: Tensor | None = None,
        known_noise: float = 0.0,
        places: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Mean squared error of the prediction.

        With `known`, the network sees these actions clean, is told so, and is judged on the others alone
        ("training-time action conditioning", Black et al., 2025, arXiv 2512.05964; there the noise level is
        given for each action, here by a mask channel, because FiLM knows one level a sample).

        Args:
            observation: {stream: (B, n_obs_steps, *shape)}, robot units; with inpainting (B, horizon, *shape).
            actions: (B, horizon, action_dim), robot units.
            noise: standard normal, (B, *trajectory_shape).
            step: (B,) int64, noise levels from 0 to train_steps - 1.
            known: (B, horizon) bool, which actions are given; needs a network with `prefix_steps`.
            known_noise: standard deviation of the noise that the given actions have all the same, in the
                normalised range of 2.
            places: where pictures are cropped, as `encode` takes it.
        """
        frames = self._frames(observation, places, observed_steps(self.network, self.task))
        trajectory = self._trajectory(actions, frames)
        return self._prediction_loss(self._condition(frames), trajectory, noise, step, known, known_noise)

    def _prediction_loss(
        self,
        condition: Tensor,
        clean: Tensor,
        noise: Tensor,
        step: Tensor,
        known: Tensor | None,
        known_noise: float,
    ) -> Tensor:
        """`prediction_loss` for an observation that is encoded, (B, O), and a trajectory that is normalised."""
        scheduler = noising_scheduler(self.sampler)
        noisy = scheduler.add_noise(clean, noise, step)
        if self.sampler.prediction == "v_prediction":
            target = scheduler.get_velocity(clean, noise, step)
        else:
            target = noise if self.sampler.prediction == "epsilon" else clean
        if self.inpainted_dim:
            predicted, hidden = self.unet(noisy, step, condition), ~self.observed_mask(noisy.device)
            return F.mse_loss(predicted[:, hidden], target[:, hidden])
        if known is None:
            return F.mse_loss(self.unet(noisy, step, condition), target)
        noisy = torch.where(known.unsqueeze(-1), clean + known_noise * noise, noisy)
        free = ~known.unsqueeze(-1).expand_as(target)
        return F.mse_loss(self.unet(noisy, step, condition, known)[free], target[free])

    @torch.inference_mode()
    def sample(
        self,
        observation: Mapping[str, Tensor],
        noise: Tensor,
        num_inference_steps: int | None = None,
        prefix: tuple[Tensor, Tensor] | None = None,
        warm: bool = False,
    ) -> Tensor:
        """Draw actions (B, horizon, action_dim) in robot units.

        Args:
            observation: {stream: (B, n_obs_steps, *shape)}, robot units.
            noise: standard normal (B, horizon, action_dim); it alone decides which actions are drawn.
            num_inference_steps: number of denoising steps; default as the sampler says.
            prefix: actions (B, horizon, action_dim), robot units, that the draw goes on from, and their weights
                (B, horizon) from 1 to 0 that never rise: 1 = fixed, between = pulled towards, 0 = free.
            warm: begin with the prefix's actions and leave out the first steps (`SamplerSpec.warm_start`).
        """
        if prefix is None:
            return self.denoise(observation, noise, num_inference_steps)[-1]
        scheduler = scheduler_of(self.sampler)
        scheduler.set_timesteps(num_inference_steps or self.sampler.num_inference_steps)
        steps = denoising_steps(self.sampler, num_inference_steps)
        noise = self._noise_of_trajectory(noise)
        fresh = self._fresh_noise(noise, len(steps))
        condition = self.encode(observation)
        actions = noise * self.sampler.temperature
        wanted, weights = prefix
        planned, known = self.normalize_prefix(wanted, weights)
        planned = F.pad(planned, (0, self.inpainted_dim))
        first = steps_left_out(self.sampler, len(steps)) if warm else 0
        if first:
            actions = warm_noise(planned, actions, steps[first])
        for k, (step, coefficients) in enumerate(zip(scheduler.timesteps, steps, strict=True)):
            if k < first:
                continue
            actions = torch.where(known.unsqueeze(-1), planned, actions)
            prediction = self.unet(actions, step.expand(len(actions)), condition, known)
            led = planned * coefficients.towards + actions * coefficients.keep
            if fresh is not None:
                led = led + fresh[k] * coefficients.fresh
            gain = self.prefix_gain(weights, coefficients.noise_share)
            own = next_trajectory(scheduler, prediction, step, actions, fresh, k)
            actions = own * (1.0 - gain) + led * gain
        drawn = self._actions_of(actions)
        return torch.where(weights.unsqueeze(-1) >= 1.0, wanted, drawn)

    @torch.inference_mode()
    def denoise(
        self, observation: Mapping[str, Tensor], noise: Tensor, num_inference_steps: int | None = None
    ) -> list[Tensor]:
        """Actions (B, horizon, action_dim), robot units, after each step: the noise first, what is drawn last."""
        scheduler = scheduler_of(self.sampler)
        scheduler.set_timesteps(num_inference_steps or self.sampler.num_inference_steps)
        noise = self._noise_of_trajectory(noise)
        fresh = self._fresh_noise(noise, len(scheduler.timesteps))
        condition = self.encode(observation)
        actions = [noise * self.sampler.temperature]
        for k, step in enumerate(scheduler.timesteps):
            prediction = self.unet(actions[-1], step.expand(len(noise)), condition)
            actions.append(next_trajectory(scheduler, prediction, step, actions[-1], fresh, k))
        return [self._actions_of(each) for each in actions]

    def observed_mask(self, device: torch.device | str = "cpu") -> Tensor:
        """Which of a trajectory is observed, `trajectory_shape` bool: the condition mask of the paper's code."""
        mask = torch.zeros(self.trajectory_shape, dtype=torch.bool, device=device)
        mask[: self.task.n_obs_steps, self.task.action.dim :] = True
        return mask

    def prefix_gain(self, weights: Tensor, noise_share: float | Tensor) -> Tensor:
        """`guidance_gain` for each value of a trajectory: actions are led, observations beside them are not."""
        gain = guidance_gain(weights, noise_share).unsqueeze(-1)
        if not self.inpainted_dim:
            return gain
        return F.pad(gain.expand(-1, -1, self.task.action.dim), (0, self.inpainted_dim))

    def _actions_of(self, trajectory: Tensor) -> Tensor:
        """Actions in robot units."""
        actions: Tensor = self.normalizers[
            "action"
        ].unnormalize(  # type: ignore[operator]
            trajectory[..., : self.task.action.dim]
        )
        return actions

    def _noise_of_trajectory(self, noise: Tensor) -> Tensor:
        """Noise (B, *trajectory_shape) that the noise of the actions decides."""
        if not self.inpainted_dim:
            return noise
        drawn = [inpainting_noise(each, self.inpainted_dim) for each in noise.numpy()]
        return torch.from_numpy(np.stack(drawn))

    def normalize_prefix(self, prefix: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Prefix (B, horizon, action_dim) in [-1, 1], and which of it (B, horizon) the network is given as known."""
        known = (weights >= 1.0) & self.rows_taken_as_known()
        return self.normalizers["action"].normalize(prefix), known  # type: ignore[operator]

    def rows_taken_as_known(self) -> Tensor:
        """Rows (horizon,) bool that the network can be given as known.

        None without a mask channel; with it no more than it was trained with, guidance leads the rest of a longer
        prefix.
        """
        prefix_steps = self.network.prefix_steps
        longest = self.task.n_obs_steps - 1 + prefix_steps if prefix_steps else 0
        return torch.arange(self.task.horizon) < longest

    def _fresh_noise(self, noise: Tensor, n_steps: int) -> Tensor | None:
        """Noise (n_steps, B, *trajectory_shape) that DDPM adds; None for DDIM."""
        if self.sampler.method != "ddpm":
            return None
        drawn = [step_noise(each, n_steps) for each in noise.numpy()]
        return torch.from_numpy(np.stack(drawn, axis=1)) * self.sampler.temperature


def check_supported(task: TaskSpec, network: DiffusionNetwork) -> None:
    """Raise UserError for a task that a policy with this network cannot be trained for."""
    images = [key for key, spec in task.observations.items() if spec.is_image]
    vision = getattr(network, "vision", None)
    if not isinstance(network, TransformerSpec):
        factor = 2 ** (len(network.widths) - 1)
        if task.horizon % factor:
            raise UserError(
                f"task {task.name}: horizon {task.horizon} is not divisible by {factor}, which a U-Net of "
                f"{len(network.widths)} widths needs; change horizon or the number of widths"
            )
    if images and vision is None:
        raise UserError(
            f"task {task.name}: observation {', '.join(images)} is an image, and this {network.kind} network has no "
            "vision; take a recipe with network.vision, such as --config diffusion_unet_image, or a task without "
            "images, such as pusht_state"
        )
    if vision is not None and not images:
        raise UserError(
            f"task {task.name}: observes no image, so network.vision would have no effect; leave it out, or take a "
            "task with a camera, such as pusht_image"
        )
    if conditioning_of(network) == "inpainting" and network.prefix_steps:
        raise UserError(
            f"network.prefix_steps {network.prefix_steps}: a network conditioned by inpainting cannot be trained with "
            "prefixes; take conditioning global or local, or prefix_steps 0"
        )
    for key in labels_of(network):
        if key in task.observations:
            raise UserError(
                f"network.vision.predicts: task {task.name} observes {key} itself; take a task without it, or leave "
                "predicts out"
            )
        if len(images) != 1:
            raise UserError(
                f"network.vision.predicts: needs a task with one camera, {task.name} has {', '.join(images)}; leave "
                "predicts out"
            )


def _joined(frames: Mapping[str, Tensor]) -> Tensor:
    """The condition (B, O) of streams (B, n_obs_steps, F), step by step."""
    return torch.cat(list(frames.values()), dim=-1).flatten(1)
