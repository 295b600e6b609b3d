"""A small exported model, shared by the tests of this folder (exporting takes seconds)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, pieces_exported_once: None) -> Path:
    """A model folder that no test may change."""
    pytest.importorskip("torch")
    from dp_ros.inference.export import export_policy
    from test.policies.small import small_policy

    folder = tmp_path_factory.mktemp("models") / "small"
    export_policy(small_policy(), folder)
    return folder


@pytest.fixture
def model(exported: Path, tmp_path: Path) -> Path:
    """A copy of the model that a test may break."""
    return Path(shutil.copytree(exported, tmp_path / "small"))
