"""The machine that a benchmark ran on, and how busy others kept it.

Timings mean nothing without it. Easy to get wrong: the load average lags by a minute and counts this program
itself, so the share of the processors that was busy before anything was started is measured as well.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from pathlib import Path
from typing import Any

_PACKAGES = ("numpy", "onnxruntime", "torch", "pymunk", "ros-jazzy-rclpy")


def describe() -> dict[str, Any]:
    """Processor, cores that this process may use, memory, kernel and versions of what does the work."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "cpu": _processor(),
        "cores": usable_cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "versions": versions,
    }


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def load_average() -> list[float]:
    """Load average of the machine over 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def processor_s(pid: int) -> float:
    """Processor time that a process has used, seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    """Memory of a process that is resident, MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def busy_cores(seconds: float = 1.0) -> float | None:
    """Cores kept busy by everything on the machine during the next `seconds`; None where /proc does not say.

    Counts what runs at low priority too, which yields to others but still shares caches and memory.
    """
    before = _processor_times()
    time.sleep(seconds)
    after = _processor_times()
    if before is None or after is None:
        return None
    total, idle = after[0] - before[0], after[1] - before[1]
    cores = os.cpu_count() or 1
    return round(cores * (1.0 - idle / total), 2) if total > 0 else None


def stolen_s() -> float:
    """Processor time since boot that a hypervisor gave to others while this machine wanted it, over all cores, s.

    A virtual machine cannot keep deadlines in such a time, whatever runs on it. 0 on bare metal.
    """
    fields = _processor_fields()
    return fields[7] / os.sysconf("SC_CLK_TCK") if fields else 0.0


def _processor_times() -> tuple[int, int] | None:
    """Ticks since boot, summed over the cores: all of them, and the idle ones."""
    fields = _processor_fields()
    return (sum(fields), fields[3] + fields[4]) if fields else None


def _processor_fields() -> list[int] | None:
    """Ticks since boot, summed over the cores (proc(5), /proc/stat).

    In order: user, nice, system, idle, iowait, irq, softirq, steal.
    """
    try:
        fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    except (OSError, ValueError, IndexError):
        return None
    return fields if len(fields) == 8 else None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
