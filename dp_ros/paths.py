"""Where the files that come with the package lie: `config/`, `launch/`, `models/`.

In a source checkout they lie beside the package; in an installed workspace in `share/dp_ros` of its
prefix. The prefix is looked up in AMENT_PREFIX_PATH itself, so that nothing here needs ROS.
"""

from __future__ import annotations

import os
from pathlib import Path

from dp_ros.errors import UserError

_PACKAGE = Path(__file__).resolve().parent


def share_dir() -> Path:
    """Folder that holds `config/` and its neighbours.

    Raises:
        UserError: neither a source checkout nor a sourced workspace has it.
    """
    if (_PACKAGE.parent / "config" / "tasks").is_dir():
        return _PACKAGE.parent
    prefixes = [prefix for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    for prefix in prefixes:
        candidate = Path(prefix) / "share" / "dp_ros"
        if (candidate / "config" / "tasks").is_dir():
            return candidate
    raise UserError(
        f"config/ and models/ of dp_ros are not beside {_PACKAGE}, nor in share/dp_ros of a sourced workspace "
        f"(AMENT_PREFIX_PATH={':'.join(prefixes) or 'not set'}). Source the workspace's install/setup.bash, "
        "or install with `pip install -e` from a checkout."
    )
