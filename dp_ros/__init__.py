"""Diffusion Policy for ROS 2: record demonstrations, train a policy, run it in closed loop.

The package path is extended because ROS installs the generated message classes (`dp_ros.msg`,
`dp_ros.srv`, `dp_ros.action`) into another folder than the one a source checkout is imported from.
"""

import pkgutil

__path__ = pkgutil.extend_path(__path__, __name__)
__version__ = "0.1.0"
