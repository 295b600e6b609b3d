from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from dp_ros.errors import UserError
from dp_ros.policies.baselines.specs import BetSpec, IbcSpec, LstmGmmSpec, RegressionSpec
from dp_ros.training.config import load_config

KINDS = {"regression": RegressionSpec, "lstm_gmm": LstmGmmSpec, "bet": BetSpec, "ibc": IbcSpec}


@pytest.mark.parametrize("kind", KINDS)
def test_the_shipped_recipe_has_the_default_network_and_the_budget_of_diffusion(kind: str) -> None:
    config, diffusion = load_config(f"{kind}_state"), load_config()
    assert config.network == KINDS[kind]()
    assert config.training == diffusion.training


@pytest.mark.parametrize(
    ("spec", "values", "reason"),
    [
        (RegressionSpec, {"blocks": 0}, "greater than or equal to 1"),
        (LstmGmmSpec, {"min_std": 0.0}, "greater than 0"),
        (LstmGmmSpec, {"components": 0}, "greater than or equal to 1"),
        (BetSpec, {"width": 70}, "width 70 is not divisible by heads 4"),
        (BetSpec, {"bins": 1}, "greater than or equal to 2"),
        (IbcSpec, {"counter_examples": 0}, "greater than or equal to 1"),
        (IbcSpec, {"shrink": 1.5}, "less than or equal to 1"),
        (IbcSpec, {"depth": 3}, "Extra inputs are not permitted"),
    ],
)  # fmt: skip
def test_values_that_cannot_be_are_refused(spec: type, values: dict[str, float], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        spec(**values)


def test_a_value_of_another_network_is_refused_with_those_there_are() -> None:
    with pytest.raises(UserError, match="network.kernel_size: unknown key; .*network.bins"):
        load_config("bet_state", {"network.kernel_size": 5})


def test_a_sampler_is_refused_for_a_policy_that_does_not_denoise() -> None:
    with pytest.raises(UserError, match="sampler: a bet policy does not denoise"):
        load_config("bet_state", {"sampler.num_inference_steps": 5})


def test_specs_need_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import dp_ros.policies.baselines.specs, dp_ros.inference.manifest"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
