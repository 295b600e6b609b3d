"""`pip install -e '.[train]'` on a machine without ROS; on a robot colcon builds the package instead."""

from pathlib import Path

from setuptools import find_packages, setup

REQUIREMENTS = Path(__file__).parent / "requirements"


def names(file: str) -> list[str]:
    """Requirements listed in one file of that folder."""
    lines = (REQUIREMENTS / f"{file}.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


setup(
    name="dp_ros",
    version="0.1.0",
    description="Diffusion Policy for ROS 2: record demonstrations, train a policy, run it in closed loop.",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["dp_ros", "dp_ros.*"]),
    install_requires=names("run"),
    extras_require={
        "train": names("train"),
        "gpu": ["onnxruntime-gpu"],
        "jpeg": ["imagecodecs"],
        "lerobot": ["pyarrow"],
        "view": ["rerun-sdk"],
        "dev": names("dev"),
    },
    entry_points={"console_scripts": ["dp-ros = dp_ros.cli.main:main"]},
)
