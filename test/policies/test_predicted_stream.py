from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from dp_ros.errors import UserError  # noqa: E402
from dp_ros.inference.sampler import SamplerSpec  # noqa: E402
from dp_ros.policies.diffusion import DiffusionPolicy, check_supported  # noqa: E402
from dp_ros.policies.policy import Batch, Draw  # noqa: E402
from dp_ros.policies.specs import UnetSpec, VisionSpec  # noqa: E402
from dp_ros.task import TaskSpec, load_task  # noqa: E402
from test.policies.small import STATISTICS, observation_batch, small_policy  # noqa: E402
from test.policies.small_image import (  # noqa: E402
    NETWORK,
    PREDICTING,
    picture_batch,
    small_image_policy,
)


def labelled_batch(n: int = 4, **weights: float) -> Batch:
    """Pictures of noise and keypoints that have nothing to do with them."""
    observation = {**picture_batch(n), "keypoint": observation_batch(n)["keypoint"]}
    return Batch(observation, torch.linspace(50, 450, n * 32).view(n, 16, 2), **weights)


def test_the_features_of_a_picture_stand_where_the_stream_that_they_predict_stands() -> None:
    """So the U-Net of a policy that observes the stream acts on a perfect estimate as on the stream itself."""
    policy, state = small_image_policy(network=PREDICTING), small_policy()
    batch = labelled_batch()
    observed = {key: batch.observation[key] for key in ("keypoint", "agent_pos")}
    wanted = state.encode(observed)
    policy._frames = lambda *_: {  # type: ignore[method-assign]
        "image": state.normalizers["keypoint"].normalize(observed["keypoint"].flatten(2)),  # type: ignore[operator]
        "agent_pos": state.normalizers["agent_pos"].normalize(observed["agent_pos"]),  # type: ignore[operator]
    }
    assert torch.equal(policy.encode(batch.observation), wanted)


def test_the_loss_is_the_weighted_sum_of_both() -> None:
    policy = small_image_policy(network=PREDICTING)

    def loss(**weights: float) -> float:
        return policy.loss(labelled_batch(**weights), Draw(0, 2, 0)).item()

    actions = loss(auxiliary_weight=0.0)
    assert actions > 0
    both, label = loss(), loss() - actions
    assert label > 0
    assert loss(action_weight=2.0, auxiliary_weight=3.0) == pytest.approx(2 * actions + 3 * label, rel=1e-5)
    assert both == pytest.approx(actions + label)


def test_without_a_weight_for_the_actions_the_encoder_alone_learns_from_the_newest_pictures() -> None:
    policy = small_image_policy(network=PREDICTING).train()
    batch = labelled_batch(action_weight=0.0)
    loss = policy.loss(batch, Draw(0, 2, 0))
    loss.backward()
    assert all(p.grad is None for p in policy.unet.parameters())
    assert policy.vision is not None
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in policy.vision.parameters())
    older = {key: value.clone() for key, value in batch.observation.items()}
    for value in older.values():
        value[:, 0] = 0
    assert policy.loss(replace(batch, observation=older), Draw(0, 2, 0)).item() == loss.item()


def test_the_error_is_in_the_units_of_the_stream() -> None:
    policy = small_image_policy(network=PREDICTING)
    observation = dict(labelled_batch().observation)
    frames = policy._frames(observation)["image"]
    normalizer = policy.normalizers["keypoint"]
    observation["keypoint"] = normalizer.unnormalize(frames) + 3.0  # type: ignore[operator]
    assert policy.label_errors(observation) == {"keypoint": pytest.approx(3.0, abs=1e-3)}
    assert small_policy().label_errors(observation_batch(2)) == {}


def test_what_is_predicted_is_not_asked_for_when_running() -> None:
    policy = small_image_policy(network=PREDICTING, num_inference_steps=2)
    assert policy.sample(picture_batch(2), torch.zeros(2, 16, 2)).shape == (2, 16, 2)


def test_features_of_another_number_than_the_stream_has_values_are_refused() -> None:
    vision = PREDICTING.vision.model_copy(update={"features": 16})  # type: ignore[union-attr]
    network = PREDICTING.model_copy(update={"vision": vision})
    with pytest.raises(UserError, match="features: got 16, but keypoint, .* has 18 values; set it to 18"):
        DiffusionPolicy(load_task("pusht_image"), STATISTICS, network, SamplerSpec())


def test_a_stream_that_is_observed_or_one_picture_of_several_cannot_be_predicted() -> None:
    with pytest.raises(UserError, match="task pusht_image_labelled observes keypoint itself"):
        check_supported(load_task("pusht_image_labelled"), PREDICTING)
    task = load_task("pusht_image").model_dump(mode="json")
    task["observations"]["wrist"] = {**task["observations"]["image"], "topic": "/wrist"}
    with pytest.raises(UserError, match="needs a task with one camera, pusht_image has image, wrist"):
        check_supported(TaskSpec.from_dict(task), PREDICTING)


def test_a_policy_that_observes_the_stream_lends_its_weights_and_the_encoder_stays() -> None:
    network = UnetSpec(**{**PREDICTING.model_dump(), "prefix_steps": 7})
    policy, state = small_image_policy(1, network), small_policy()
    before = {key: value.clone() for key, value in policy.state_dict().items()}
    weights = state.state_dict()
    policy.start_from(weights)
    after = policy.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before if key.startswith("vision."))
    assert torch.equal(after["unet.film.weight"], weights["unet.film.weight"])


def test_an_encoder_without_labels_takes_no_weights_of_a_policy_without_one() -> None:
    with pytest.raises(RuntimeError, match="vision"):
        small_image_policy(network=NETWORK).start_from(small_policy().state_dict())


def test_the_spec_keeps_what_it_predicts() -> None:
    assert VisionSpec(predicts="keypoint", features=18).predicts == "keypoint"
    assert VisionSpec().predicts is None
