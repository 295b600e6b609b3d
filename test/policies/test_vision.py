from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from pydantic import ValidationError  # noqa: E402

from dp_ros.errors import UserError  # noqa: E402
from dp_ros.policies.specs import VisionSpec  # noqa: E402
from dp_ros.policies.vision import VisionEncoder, crop, spatial_softmax  # noqa: E402
from dp_ros.task import ObservationSpec  # noqa: E402

SMALL = VisionSpec(channels=(8, 8), keypoints=4, features=6)


def camera(
    height: int, width: int, encoding: str = "rgb8", cut: tuple[int, int] | None = None
) -> ObservationSpec:
    channels = {"rgb8": 3, "mono8": 1, "32FC1": 1}[encoding]
    return ObservationSpec(
        topic="/camera",
        type="sensor_msgs/msg/Image",
        encoding=encoding,
        shape=(height, width, channels),
        crop=cut,
        max_age_s=1.0,
    )


def pictures(n: int, height: int, width: int, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (n, 2, height, width, channels), dtype=torch.uint8, generator=generator)


def test_the_crop_is_central_when_running() -> None:
    whole = pictures(2, 8, 12)
    pixels, rows, columns = crop(whole, (4, 6), None)
    assert torch.equal(pixels, whole[:, :, 2:6, 3:9])
    torch.testing.assert_close(rows, torch.tensor([[-0.375, -0.125, 0.125, 0.375]]))
    assert columns[0, 0].item() == pytest.approx(-5 / 12)


@pytest.mark.parametrize(
    ("place", "top", "left"), [((0.0, 0.0), 0, 0), ((0.9999999, 0.9999999), 4, 6), ((0.5, 0.3), 2, 2)]
)
def test_a_place_decides_where_a_sample_is_cropped_at_all_its_steps(
    place: tuple[float, float], top: int, left: int
) -> None:
    whole = pictures(3, 8, 12)
    places = torch.tensor([(0.0, 0.0), place, (0.0, 0.0)])
    pixels, rows, columns = crop(whole, (4, 6), places)
    assert torch.equal(pixels[1], whole[1, :, top : top + 4, left : left + 6])
    assert torch.equal(pixels[2], whole[2, :, :4, :6])
    assert rows[1, 0].item() == pytest.approx((top + 0.5) / 4 - 1, abs=1e-6)
    assert columns[1, 0].item() == pytest.approx((left + 0.5) / 6 - 1, abs=1e-6)


def test_the_spatial_softmax_says_where_in_the_whole_picture_a_map_responds() -> None:
    maps = torch.zeros((1, 2, 5, 5))
    maps[0, 0, 1, 3] = maps[0, 1, 4, 0] = 1e4
    places = torch.tensor([[-0.5, 0.0, 0.5, 0.6, 0.7]])
    found = spatial_softmax(maps, rows=places, columns=places - 0.2)
    spread = [-0.5 + 0.3 * k for k in range(5)]
    torch.testing.assert_close(
        found, torch.tensor([[spread[3] - 0.2, spread[0] - 0.2, spread[1], spread[4]]])
    )


def test_what_is_seen_has_the_same_place_however_it_is_cropped() -> None:
    """A bright pixel that one map responds to: its position must not move with the crop."""
    whole = torch.zeros((1, 1, 12, 12, 1), dtype=torch.uint8)
    whole[0, 0, 5, 6] = 255
    found = []
    for place in (None, torch.tensor([[0.0, 0.0]]), torch.tensor([[0.99, 0.4]])):
        pixels, rows, columns = crop(whole, (8, 8), place)
        maps = pixels[:, 0].permute(0, 3, 1, 2).float() * 100
        found.append(spatial_softmax(maps, rows, columns))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])
    torch.testing.assert_close(found[0], torch.tensor([[6.5 / 6 - 1, 5.5 / 6 - 1]]))


@pytest.mark.parametrize("encoder", ["small", "resnet18"])
@pytest.mark.parametrize("shared", [False, True])
def test_cameras_of_different_sizes_have_features_of_one_size(encoder: str, shared: bool) -> None:
    spec = (
        SMALL.model_copy(update={"shared": shared})
        if encoder == "small"
        else VisionSpec(encoder="resnet18", keypoints=4, features=6, shared=shared)
    )
    cameras = {"front": camera(40, 48, cut=(36, 40)), "wrist": camera(33, 37)}
    network = VisionEncoder(cameras, spec)
    assert len(network.encoders) == (1 if shared else 2)
    assert network("front", pictures(2, 40, 48)).shape == (2, 2, 6)
    wrist = pictures(2, 33, 37)
    features = network("wrist", wrist, torch.rand((2, 2)))
    torch.testing.assert_close(
        features, network("wrist", wrist)
    )  # the whole picture: only one place there is


def test_every_frame_is_encoded_on_its_own() -> None:
    network = VisionEncoder({"front": camera(16, 16)}, SMALL)
    both = pictures(2, 16, 16)
    last = network("front", both[1:, 1:])
    torch.testing.assert_close(network("front", both)[1:, 1:], last)


def test_the_resnet_is_as_deep_and_wide_as_it_should_be() -> None:
    network = VisionEncoder({"front": camera(32, 32)}, VisionSpec(encoder="resnet18"))
    body = network.encoders["front"].body
    convolutions = [m for m in body.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len([c for c in convolutions if c.kernel_size != (1, 1)]) == 17  # and the head, which is not there
    assert sum(p.numel() for p in body.parameters()) == 11_176_512  # as torchvision's without its head


def test_an_encoding_whose_range_is_unknown_is_refused() -> None:
    with pytest.raises(UserError, match="observation depth: encoding 32FC1 cannot be learnt from.*rgb8"):
        VisionEncoder({"depth": camera(16, 16, "32FC1")}, SMALL)


def test_one_encoder_for_cameras_of_different_channels_is_refused() -> None:
    cameras = {"front": camera(16, 16), "grey": camera(16, 16, "mono8")}
    VisionEncoder(cameras, SMALL)
    with pytest.raises(UserError, match="different numbers of channels.*set it to false"):
        VisionEncoder(cameras, SMALL.model_copy(update={"shared": True}))


def test_channels_are_those_of_the_small_encoder() -> None:
    with pytest.raises(ValidationError, match="encoder resnet18 has its own"):
        VisionSpec(encoder="resnet18", channels=(16, 32))
    with pytest.raises(ValidationError, match="expected multiples of 8"):
        VisionSpec(channels=(12, 32))
