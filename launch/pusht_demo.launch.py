"""The simulated PushT robot and the policy that drives it."""

from launch import LaunchDescription

from dp_ros.bridge.launch_description import launch_description


def generate_launch_description() -> LaunchDescription:
    return launch_description("pusht_demo")
