"""Whether recordings are read by zarr 2, which the reference implementation of Diffusion Policy uses.

    python benchmarks/zarr2_reader.py             makes recordings, folder and zip, and an environment to read them in
    python benchmarks/zarr2_reader.py X.zarr      reads this one

The environment has zarr 2 and numcodecs of that time and nothing of this project; what reads there is `_READ` below: it
copies everything into memory as the reference's ReplayBuffer.copy_from_store does: `root['data'][key][:]` and
`root['meta'][key][:]`. Its sums have to equal those read here. Pictures stored as JPEG or as video need a codec that
zarr 2 does not have: these are refused there by name, and are not part of this.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import numpy as np

from dp_ros.data.archive import export_zip
from dp_ros.data.episode_writer import EpisodeWriter
from dp_ros.data.replay_buffer import ReplayBuffer
from dp_ros.task import load_task

REQUIREMENTS = ["zarr==2.16.1", "numcodecs==0.12.1", "numpy==1.26.4"]
_READ = """
import hashlib, json, sys
import numpy, zarr
assert zarr.__version__.startswith("2."), zarr.__version__
assert "dp_ros" not in sys.modules
path = sys.argv[1]
root = zarr.group(zarr.ZipStore(path, mode="r") if path.endswith(".zip") else zarr.DirectoryStore(path))
meta = {key: value[:] if value.shape else numpy.array(value) for key, value in root["meta"].items()}
data = {key: value[:] for key, value in root["data"].items()}
ends = meta["episode_ends"]
for key, value in data.items():
    assert len(value) >= ends[-1], key
print(json.dumps({
    "zarr": zarr.__version__,
    "episode_ends": ends.tolist(),
    "sums": {key: hashlib.sha256(value[:ends[-1]].tobytes()).hexdigest() for key, value in data.items()},
}))
"""


def main() -> int:
    """Read with zarr 2 and compare; exit status 1 if anything differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recording", type=Path, nargs="*")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recordings = args.recording or _made(folder)
        python = folder / "venv" / "bin" / "python"
        venv.create(folder / "venv", with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *REQUIREMENTS], check=True)
        wrong = 0
        for path in recordings:
            buffer = ReplayBuffer.open(path)
            read = subprocess.run(
                [python, "-I", "-c", _READ, str(path.absolute())], capture_output=True, text=True, cwd=folder
            )
            if read.returncode:
                wrong += 1
                print(f"{path.name}: not read: {read.stderr.strip().splitlines()[-1]}")
                continue
            found = json.loads(read.stdout)
            sums = {key: hashlib.sha256(buffer[key].tobytes()).hexdigest() for key in buffer}
            same = found["sums"] == sums and found["episode_ends"] == buffer.episode_ends.tolist()
            wrong += not same
            print(
                f"{path.name}: zarr {found['zarr']}: {buffer.n_episodes} episodes, {buffer.n_steps} steps, "
                f"{len(sums)} arrays {'equal' if same else 'DIFFER'}"
            )
    return int(wrong > 0)


def _made(folder: Path) -> list[Path]:
    """A recording with pictures, in several chunks, as a folder and as a zip."""
    task, draw, path = load_task("pusht_image"), np.random.default_rng(0), folder / "made.zarr"
    with EpisodeWriter(path, task) as writer:
        for length in (30, 1, 47):
            for k in range(length):
                step = {
                    key: draw.integers(0, 256, spec.shape, dtype=np.uint8)
                    if spec.is_image
                    else draw.normal(size=spec.shape)
                    for key, spec in task.observations.items()
                }
                action = draw.normal(size=task.action.shape)
                writer.add({**step, "action": action, "timestamp": k / task.rate_hz})
            writer.save(success=True, info={"operator": "anna"})
    packed = folder / "made.zarr.zip"
    export_zip(ReplayBuffer.open(path), range(3), packed, lambda: None)
    return [path, packed]


if __name__ == "__main__":
    sys.exit(main())
