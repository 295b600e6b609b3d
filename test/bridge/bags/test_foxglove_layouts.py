"""Foxglove's layouts name what our bags hold: topics, and fields of their messages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")

from rclpy.serialization import deserialize_message  # noqa: E402

from dp_ros.bridge.bags.bag_files import messages_of, topics_of  # noqa: E402
from dp_ros.bridge.bags.writing import export_mcap  # noqa: E402
from dp_ros.bridge.codecs import message_class  # noqa: E402
from dp_ros.paths import share_dir  # noqa: E402
from dp_ros.task import load_task  # noqa: E402
from test.bridge.bags.test_bags import record  # noqa: E402

LAYOUTS = {"pusht": "pusht_image", "ur5e_two_realsense": "ur5e_two_realsense"}


def panels(node: Any) -> Iterator[str]:
    """Names of the panels that a layout shows."""
    if isinstance(node, str):
        yield node
    else:
        yield from panels(node["first"])
        yield from panels(node["second"])


def value_at(message: Any, path: str) -> Any:
    """What a message path such as `.points[0].positions[1]` leads to."""
    for field, index in re.findall(r"\.(\w+)|\[(\d+)\]", path):
        message = getattr(message, field) if field else message[int(index)]
    return message


def test_there_is_a_layout_for_each_of_these_and_no_other() -> None:
    assert {path.stem for path in (share_dir() / "config/foxglove").glob("*.json")} == set(LAYOUTS)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_shows_what_is_in_the_bag(tmp_path: Path, name: str) -> None:
    layout = json.loads((share_dir() / f"config/foxglove/{name}.json").read_text())
    assert sorted(panels(layout["layout"])) == sorted(layout["configById"])
    bag = tmp_path / "x.mcap"
    export_mcap(record(tmp_path / "x.zarr", load_task(LAYOUTS[name]), [2]), [0], bag, lambda: None)
    types = topics_of(bag)
    first: dict[str, Any] = {}
    for topic, data, _ in messages_of(bag, list(types)):
        first.setdefault(topic, deserialize_message(data, message_class(types[topic])))
    shown = 0
    assert isinstance(layout["globalVariables"], dict) and layout["playbackConfig"] == {"speed": 1}
    for panel, config in layout["configById"].items():
        kind = panel.partition("!")[0]
        assert kind in ("Image", "Plot", "RawMessages")
        assert (
            config["foxglovePanelTitle"] == config["lichtblickPanelTitle"]
        )  # the title, in Foxglove and in Lichtblick
        if kind == "Image":
            assert types[config["imageMode"]["imageTopic"]] == "sensor_msgs/msg/Image"
        elif kind == "RawMessages":
            assert config["topicPath"] in types
        elif kind == "Plot":  # a legend of whole paths over the curves hides them
            labels = [path["label"] for path in config["paths"]]
            assert config["legendDisplay"] == "left"
            assert len(set(labels)) == len(labels) and max(map(len, labels)) <= 4
        for path in config.get("paths", []):
            topic, dot, fields = path["value"].partition(".")
            assert isinstance(value_at(first[topic], dot + fields), float)
            shown += 1
    assert shown >= 4
