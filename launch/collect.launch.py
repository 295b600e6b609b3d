"""The simulated PushT robot, an operator who demonstrates, and the recorder."""

from launch import LaunchDescription

from dp_ros.bridge.launch_description import launch_description


def generate_launch_description() -> LaunchDescription:
    return launch_description("collect")
