"""Definitions of ROS messages as a bag carries them, so that others can read it without these packages.

The text is that of the installed `.msg` file followed by those of every message it contains, as rosbag2 writes it
(https://mcap.dev/spec/registry, ros2msg). Easy to get wrong: a message may contain one that two others contain, too;
each is there once.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

from dp_ros.bridge.codecs import message_class
from dp_ros.errors import UserError

_RULE = "=" * 80
_INNER = re.compile(r"([a-zA-Z]\w*)/([a-zA-Z]\w*)")


@cache
def message_definition(type_name: str) -> str:
    """Definition of a type such as `sensor_msgs/msg/Image` and of all that it contains.

    Raises:
        UserError: if a package or its definitions are not installed.
    """
    parts, found, waiting = [_file_of(type_name)], {type_name}, [type_name]
    while waiting:
        for field in message_class(waiting.pop(0)).get_fields_and_field_types().values():
            inner = _INNER.search(field)
            if inner is None:
                continue
            name = f"{inner[1]}/msg/{inner[2]}"
            if name not in found:
                found.add(name)
                waiting.append(name)
                parts.append(f"{_RULE}\nMSG: {inner[1]}/{inner[2]}\n{_file_of(name)}")
    return "\n".join(parts)


def _file_of(type_name: str) -> str:
    package, _, name = type_name.partition("/msg/")
    try:
        return (Path(get_package_share_directory(package)) / "msg" / f"{name}.msg").read_text(
            encoding="utf-8"
        )
    except (PackageNotFoundError, OSError) as error:
        raise UserError(
            f"message type {type_name}: its definition is not installed ({error}); install the ROS package {package}"
        ) from error
