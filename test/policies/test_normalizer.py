from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from dp_ros.policies.normalizer import MinMaxNormalizer, min_max  # noqa: E402


def test_the_lowest_value_becomes_minus_one_and_the_highest_one() -> None:
    values = np.array([[0.0, -5.0], [512.0, 5.0], [100.0, 0.0]], np.float32)
    stats = min_max(values)
    normalized = MinMaxNormalizer(stats["min"], stats["max"]).normalize(torch.from_numpy(values))
    assert normalized.amin(0).tolist() == [-1.0, -1.0]
    assert normalized.amax(0).tolist() == [1.0, 1.0]
    assert normalized[2, 1].item() == 0.0


@settings(deadline=None, max_examples=50)
@given(low=st.floats(-1e3, 1e3), width=st.floats(1.0, 1e3), share=st.floats(-0.5, 1.5))
def test_unnormalize_undoes_normalize_also_beyond_the_range(low: float, width: float, share: float) -> None:
    normalizer = MinMaxNormalizer([low], [low + width])
    value = torch.tensor([low + share * width], dtype=torch.float32)
    back = normalizer.unnormalize(normalizer.normalize(value))
    assert abs(back.item() - value.item()) <= 1e-5 * (abs(low) + width)


@pytest.mark.parametrize("constant", [0.0, 3.5, -1e6, 256.0])
def test_a_constant_dimension_becomes_zero_and_comes_back(constant: float) -> None:
    normalizer = MinMaxNormalizer([constant, 0.0], [constant, 2.0])
    value = torch.tensor([constant, 1.0])
    assert normalizer.normalize(value).tolist() == [0.0, 0.0]
    assert normalizer.unnormalize(torch.zeros(2)).tolist() == [constant, 1.0]


def test_a_small_deviation_of_a_constant_dimension_stays_small() -> None:
    normalizer = MinMaxNormalizer([100.0], [100.0])
    assert abs(normalizer.normalize(torch.tensor([100.5])).item()) == pytest.approx(0.5)


def test_a_narrow_range_at_a_large_offset_is_still_a_range() -> None:
    normalizer = MinMaxNormalizer([1000.0], [1001.0])
    assert normalizer.normalize(torch.tensor([1001.0])).item() == pytest.approx(1.0, abs=1e-3)
