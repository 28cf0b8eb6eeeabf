"""What a run was made with: the code's commit, the packages, the hardware."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from importlib.metadata import distributions
from pathlib import Path

import torch


def code_version(folder: Path) -> dict[str, str]:
    """Commit, and whether tracked files differ from it, of the repository that `folder` is part of; else empty.

    A package that is installed inside somebody's repository, but is no part of it, has no version there.
    """
    if not _git(folder, "ls-files", "."):
        return {}
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"mlflow.source.git.commit": _git(folder, "rev-parse", "HEAD"), "code.dirty": str(bool(changed)).lower()}


def _git(folder: Path, *arguments: str) -> str:
    """What git prints; nothing where there is no git or no repository."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20, check=False,
            env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


@functools.cache
def packages() -> str:
    """Every installed package, one `name==version` per line, as pip takes them."""
    found = {f"{one.metadata['Name']}=={one.version}" for one in distributions()}
    return "\n".join(sorted(found, key=str.lower)) + "\n"


def hardware() -> dict[str, str]:
    """Host, processor, cores that this process may use, Python, torch, and the GPU if torch has one."""
    found = {
        "hardware.host": platform.node(),
        "hardware.cpu": _processor(),
        "hardware.cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "version.python": platform.python_version(),
        "version.torch": torch.__version__,
    }
    if torch.cuda.is_available():
        found["hardware.gpu"] = ", ".join(
            torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())
        )
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
