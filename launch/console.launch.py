"""The web console, a recorder and a policy; with the simulated PushT robot unless sim:=false."""

from launch import LaunchDescription

from dp_ros.bridge.launch_description import launch_description


def generate_launch_description() -> LaunchDescription:
    return launch_description("console")
