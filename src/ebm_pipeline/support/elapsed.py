"""Since when a job runs: the first one of a process since the process began, so that imports count."""

from __future__ import annotations

import os
import time
from pathlib import Path

_LOADED = time.perf_counter()
_begun: float | None = None  # of the job whose function has not asked yet
_jobs = 0


def begin() -> None:
    """A job begins."""
    global _begun, _jobs
    _begun = time.perf_counter() - (_process_seconds() if _jobs == 0 else 0.0)
    _jobs += 1


def of_job() -> float:
    """When the job began, on the clock of `time.perf_counter`; now where it was called from Python."""
    global _begun
    begun, _begun = _begun, None
    return time.perf_counter() if begun is None else begun


def _process_seconds() -> float:
    """Seconds since this process began; since this file was loaded where the system does not say."""
    try:
        ticks = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rsplit(")", 1)[1].split()[19]
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(ticks) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):
        return time.perf_counter() - _LOADED
