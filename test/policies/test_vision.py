from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch")

from pydantic import ValidationError  # noqa: E402

from dp_ros.errors import UserError  # noqa: E402
from dp_ros.inference.manifest import load_manifest  # noqa: E402
from dp_ros.paths import share_dir  # noqa: E402
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


def test_the_middle_between_two_pixels_is_where_the_spec_says() -> None:
    whole = pictures(1, 7, 9)
    assert torch.equal(crop(whole, (4, 6), None)[0], whole[:, :, 1:5, 1:7])
    rounded, rows, columns = crop(
        whole, (4, 6), None, rounds=True
    )  # 1.5 is nearest to 1 and to 2: the even one
    assert torch.equal(rounded, whole[:, :, 2:6, 2:8])
    assert (rows[0, 0].item(), columns[0, 0].item()) == pytest.approx((2.5 * 2 / 7 - 1, 2.5 * 2 / 9 - 1))
    spec = SMALL.model_copy(update={"crop_rounds": True})
    torch.manual_seed(0)
    found = VisionEncoder({"front": camera(7, 9, cut=(4, 6))}, spec)("front", whole)
    torch.manual_seed(0)
    assert not torch.equal(found, VisionEncoder({"front": camera(7, 9, cut=(4, 6))}, SMALL)("front", whole))


def test_values_of_pixels_are_mapped_as_the_ranges_of_a_camera_say() -> None:
    cameras, whole = {"front": camera(16, 16), "wrist": camera(16, 16)}, pictures(2, 16, 16)
    spec = SMALL.model_copy(update={"shared": True})
    network = VisionEncoder(cameras, spec, {"wrist": {"min": [0.0, 0.0, 50.0], "max": [255.0, 255.0, 100.0]}})
    seen: list[torch.Tensor] = []
    network.encoders["shared"].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    for key in cameras:
        network(key, whole)
    plain, ranged = seen
    torch.testing.assert_close(ranged[:, :2], plain[:, :2])
    blue = whole[..., 2].flatten(0, 1).float()
    torch.testing.assert_close(ranged[:, 2], (blue - 75.0) / 25.0)
    assert not [key for key in network.state_dict() if "ranges" in key], "they are in the manifest"


def test_features_can_be_rectified_and_be_means_of_the_last_maps() -> None:
    cameras, whole = {"front": camera(40, 40)}, pictures(1, 40, 40)
    torch.manual_seed(0)
    plain = VisionEncoder(cameras, SMALL)
    rectified = VisionEncoder(cameras, SMALL.model_copy(update={"activation": "relu"}))
    rectified.load_state_dict(plain.state_dict())
    features = plain("front", whole)
    assert (features < 0).any()
    torch.testing.assert_close(rectified("front", whole), features.relu())
    spec = VisionSpec(encoder="resnet18", pooling="mean", norm="folded", features=512)
    mean = VisionEncoder(cameras, spec)
    assert mean("front", whole).shape == (1, 2, 512)
    assert not [m for m in mean.modules() if isinstance(m, torch.nn.GroupNorm | torch.nn.Linear)]
    biased = [m.bias is not None for m in mean.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(biased) == 20 and all(biased)


def test_a_spec_is_written_as_before_unless_it_needs_what_came_later() -> None:
    model = share_dir() / "models/pusht_image"
    written = json.loads((model / "manifest.json").read_text())["network"]
    assert load_manifest(model).model_dump(mode="json")["network"] == written
    spec = VisionSpec(encoder="resnet18", activation="relu", crop_rounds=True)
    assert spec.model_dump().keys() - SMALL.model_dump().keys() == {"activation", "crop_rounds"}
    assert VisionSpec(**spec.model_dump()) == spec


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


def test_what_only_a_resnet_has_is_refused_elsewhere() -> None:
    with pytest.raises(ValidationError, match="norm folded, pooling keypoints: are of encoder resnet18"):
        VisionSpec(norm="folded")
    with pytest.raises(ValidationError, match="pooling mean: makes 512 features.*got features 64, hidden 0"):
        VisionSpec(encoder="resnet18", pooling="mean")
