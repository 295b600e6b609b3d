"""The Fast DDS profile that nodes are started with: shared memory large enough for pictures.

`env.sh` does the same for a shell. Easy to get wrong: every node takes a segment of 16 MB, and a container's
/dev/shm may be 64 MB in all; where there is little room, Fast DDS's own settings are left as they are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from dp_ros.paths import share_dir

PROFILES = "FASTRTPS_DEFAULT_PROFILES_FILE"
#: Variables by which a person has chosen already; the second is the name from Fast DDS 3 on.
CHOSEN_BY = (PROFILES, "FASTDDS_DEFAULT_PROFILES_FILE", "FASTDDS_BUILTIN_TRANSPORTS")
#: Room for the segments of a dozen nodes and the ports between them.
MIN_FREE_BYTES = 256 * 2**20


def profile_variables(environment: Mapping[str, str], shm: Path = Path("/dev/shm")) -> dict[str, str]:
    """Variables to start nodes with; none where something is chosen already or shared memory is scarce.

    Args:
        environment: that the nodes would have.
        shm: the file system of shared memory.
    """
    if any(environment.get(name) for name in CHOSEN_BY):
        return {}
    try:
        status = os.statvfs(shm)
    except OSError:
        return {}
    if status.f_bavail * status.f_frsize < MIN_FREE_BYTES:
        return {}
    return {PROFILES: str(share_dir() / "config" / "fastdds.xml")}
