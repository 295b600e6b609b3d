from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, ValidationError

from dp_ros.errors import UserError
from dp_ros.training.config import load_config
from dp_ros.training.overrides import apply_overrides, explain_values, fields_of, parse_overrides


class Vision(BaseModel):
    crop_px: int = 84


class Small(BaseModel):
    kind: Literal["small"] = "small"
    width: int = Field(default=8, ge=1)
    vision: Vision | None = None


class Large(BaseModel):
    kind: Literal["large"] = "large"
    depth: int = 4


class Recipe(BaseModel):
    network: Annotated[Small | Large, Field(discriminator="kind")]
    rate: float = 0.1


def test_words_become_values_by_name() -> None:
    words = ["training.seed=42", "training.device=cuda:0", "network.widths=[64,128]", "a.b=null", "a.c=x=y"]
    assert parse_overrides(words) == {
        "training.seed": 42,
        "training.device": "cuda:0",
        "network.widths": [64, 128],
        "a.b": None,
        "a.c": "x=y",
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["training.seed"], "'training.seed': expected NAME=VALUE"),
        (["=3"], "'=3': expected NAME=VALUE"),
        (["a.b=[1"], r"'a.b=\[1': the value is not YAML"),
        (["a.b=1", "a.b=2"], "a.b: is given twice"),
    ],
)
def test_a_word_that_is_no_override_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_overrides(words)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "training.sead",
            r"did you mean training.seed \(a whole number, at least 0, below 4294967296; now 0\)\?",
        ),
        (
            "training.learning_rat",
            r"did you mean training.learning_rate \(a number, above 0, at most 1; now 0.001\)",
        ),
        ("seed", "did you mean training.seed"),
        ("training.widths", r"did you mean network.widths \(a list of whole numbers; now \[32, 64, 128\]\)"),
        ("training.loger", "training.logger .tensorboard or wandb or wandb_offline or none; now tensorboard"),
        ("training.bets", "did you mean training.betas .a list of 2 numbers; now"),
        ("network.xyzzy", "unknown key; the recipe has network.kind, network.widths"),
        ("xyzzy", "unknown key; the recipe has network.kind"),
        ("training", "unknown key"),
        ("training.seed.x", "did you mean training.seed "),
    ],
)
def test_a_name_that_is_none_is_refused_with_the_nearest_and_what_it_takes(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        load_config(overrides={name: 1})
    assert str(error.value).startswith(f"{name}: unknown key")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("training.seed=abc", "training.seed: got 'abc'.*; training.seed takes a whole number, at least 0"),
        ("training.steps=1.5", "training.steps: got 1.5.*; training.steps takes a whole number, at least 1"),
        ("training.steps=true", "training.steps: got true, expected a whole number, at least 1"),
        ("network.widths=64", "network.widths: got 64.*takes a list of whole numbers"),
        ("network.widths=[8,x]", "network.widths.1: got 'x'.*network.widths takes a list of whole numbers"),
    ],
)
def test_a_value_of_another_type_is_refused_with_the_one_that_is_expected(word: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(overrides=parse_overrides([word]))


def test_a_learning_rate_may_be_written_as_people_write_it() -> None:
    assert (
        load_config(overrides=parse_overrides(["training.learning_rate=5e-4"])).training.learning_rate == 5e-4
    )


def test_which_names_there_are_depends_on_the_kind_of_network() -> None:
    assert list(fields_of(Recipe, {"network": {"kind": "large"}})) == [
        "network.kind",
        "network.depth",
        "rate",
    ]
    small: dict[str, Any] = {"network": {"kind": "small"}}
    assert apply_overrides(Recipe, small, {"network.vision.crop_px": 76}) == {
        "network": {"kind": "small", "vision": {"crop_px": 76}}
    }
    assert small == {"network": {"kind": "small"}}, "what is given stays as it is"
    with pytest.raises(UserError, match="network.depth: unknown key"):
        apply_overrides(Recipe, small, {"network.depth": 3})


def test_a_problem_in_one_kind_is_named_without_the_kind() -> None:
    data = {"network": {"kind": "small", "width": 0}}
    with pytest.raises(ValidationError) as error:
        Recipe.model_validate(data)
    (line,) = explain_values(error.value, Recipe, data)
    assert line.startswith("network.width: got 0")
    assert line.endswith("network.width takes a whole number, at least 1")
