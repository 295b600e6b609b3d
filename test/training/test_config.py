from __future__ import annotations

from pathlib import Path

import pytest

from dp_ros.errors import UserError
from dp_ros.training.config import load_config, with_overrides


def test_the_default_recipe_is_that_of_a_small_network_and_many_small_steps() -> None:
    config = load_config()
    assert config.network.widths == (32, 64, 128)
    assert config.training.batch_size == 64
    assert 1.0e6 <= config.training.steps * config.training.batch_size <= 1.3e6
    assert config.sampler.num_inference_steps == 10


def test_the_default_evaluation_keeps_away_from_the_seeds_that_are_reported() -> None:
    spec = load_config().training
    assert not set(range(spec.eval_first_seed, spec.eval_first_seed + spec.eval_episodes)) & set(
        range(100000, 100050)
    )


def test_a_recipe_that_leaves_nothing_to_learn_is_refused() -> None:
    labelled = "diffusion_unet_image_labelled"
    assert load_config(labelled).training.action_weight == 0
    with pytest.raises(
        UserError, match="action_weight: 0 leaves nothing to learn; set network.vision.predicts"
    ):
        load_config(overrides={"training.action_weight": 0})
    with pytest.raises(UserError, match="0 leaves nothing to learn"):
        load_config(labelled, {"training.auxiliary_weight": 0})


def test_values_of_the_command_line_replace_those_of_the_file() -> None:
    config = load_config(
        overrides={"training.steps": 7, "network.widths": [8], "sampler.prediction": "sample"}
    )
    assert config.training.steps == 7
    assert config.network.widths == (8,)
    assert config.sampler.prediction == "sample"
    assert with_overrides(config, {"training.seed": 3}).training.seed == 3


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("network.prefix_steps", -1, "network.prefix_steps: got -1"),
        ("training.prefix_share", 1.5, "training.prefix_share: got 1.5"),
        ("training.steps", 0, "training.steps: got 0, should be greater than or equal to 1"),
        ("training.learning_rate", -1, "training.learning_rate: got -1"),
        ("training.learning_rate", float("nan"), "training.learning_rate: got nan"),
        ("training.betas", [0.9, 1.0], r"betas: got \[0.9, 1.0\], expected two numbers from 0 to below 1"),
        ("training.xyz", 3, "training.xyz: unknown key; the recipe has training.steps, "),
        ("training.device", "gpu", "training.device: got 'gpu'.*; training.device takes text"),
        (
            "training.eval_first_seed",
            99990,
            "eval_first_seed: got 99990, so that start states 99990 to 100009",
        ),
        ("network.kind", "other", "network.kind=other: the recipe is one for unet1d_state.*--config"),
        ("sampler.prediction", "v", "sampler.prediction: got 'v', should be 'epsilon', 'sample' or"),
        ("sampler.num_inference_steps", 500, "num_inference_steps 500 is more than train_steps 100"),
        ("network.widths", [], r"network.widths: got \[\]"),
    ],
)
def test_a_value_that_is_not_allowed_is_named(key: str, value: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(overrides={key: value})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected the sections network, sampler, training"),
        ("- a", "expected the sections"),
        ("a: [", "not YAML"),
        ("network: {}\nsampler: {}\n", "training: is missing"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_config(path)


def test_a_recipe_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(UserError, match=r"recipe fast: No such file.*one of: .*diffusion_unet_state"):
        load_config("fast")


@pytest.mark.parametrize("recipe", ["diffusion_unet_image", "diffusion_unet_image_labelled"])
def test_an_image_recipe_takes_the_papers_encoder_by_one_override(recipe: str) -> None:
    config = load_config(recipe, {"network.vision.encoder": "resnet18"})
    assert config.model_dump()["network"]["vision"]["encoder"] == "resnet18"
