"""What a run was made with: the code's commit, the packages, the hardware."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path

import torch

DECISIVE = ("torch", "numpy", "h5py", "pytorch-lightning", "mlflow", "ebm_pipeline")  # packages that a run hangs on


def code_version(folder: Path) -> dict[str, str]:
    """Commit, and whether tracked files differ from it, of the repository that `folder` is part of; else empty.

    A package that is installed inside somebody's repository, but is no part of it, has no version there.
    """
    if not _git(folder, "ls-files", "."):
        return {}
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"mlflow.source.git.commit": _git(folder, "rev-parse", "HEAD"), "ebm.code.dirty": str(bool(changed)).lower()}


def versions(folder: Path) -> dict[str, str]:
    """The versions that a run hangs on, by package; `code`: the commit of the repository of `folder`, with a hash of changes."""
    found = {}
    for name in DECISIVE:
        with suppress(PackageNotFoundError):  # as of a source tree that is not installed
            found[name] = version(name)
    state = code_version(folder)
    if state:
        commit, changes = state["mlflow.source.git.commit"], _git(folder, "diff", "HEAD", "--", ".")
        found["code"] = f"{commit[:12]}{f'+{hashlib.sha256(changes.encode()).hexdigest()[:8]}' if changes else ''}"
    return found


def differing(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """What differs, such as `torch 2.9.0 then, 2.10.0 now`; empty where nothing does. What is not known of one is left out."""
    pairs = ((name, before[name], now[name]) for name in before if name in now and before[name] != now[name])
    return "; ".join(f"{name} {then} then, {here} now" for name, then, here in pairs)


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
    """Tags: processor, cores that this process may use, host, and the GPU if torch has one; Python and torch."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "ebm.hardware": "; ".join([f"{_processor()}, {cores} cores", *gpus, f"host {platform.node()}"]),
        "ebm.versions": f"Python {platform.python_version()}, torch {torch.__version__}",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
