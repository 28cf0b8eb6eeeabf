"""Two hosts on one machine: network namespaces joined by a cable (veth). Needs root and iproute2; nothing else is touched."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

ADDRESSES = ("10.77.0.1", "10.77.0.2")
NO_NAMES = {"RES_OPTIONS": "attempts:1 timeout:1"}  # nobody answers for names there


def skip_without_hosts() -> None:
    """Skip the test, with the reason, where there can be no such hosts."""
    if os.geteuid() != 0:
        pytest.skip("needs root, for network namespaces")
    if shutil.which("ip") is None:
        pytest.skip("needs ip: apt-get install iproute2")
    name = f"ebm{os.getpid()}probe"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"network namespaces cannot be made here ({made.stderr.strip()})")
    _ip("netns", "del", name)


class Hosts:
    """As a context manager the hosts, and all that was started on them, end with the block."""

    def __init__(self, logs: Path) -> None:
        self.names = tuple(f"ebm{os.getpid()}{letter}" for letter in "ab")
        self.logs = logs
        self.started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Hosts:
        for name in self.names:
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        one, other = self.names
        _ip("-n", one, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", other)
        for name, address in zip(self.names, ADDRESSES, strict=True):
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
        return self

    def __exit__(self, *error: object) -> None:
        for host, name in enumerate(self.names):
            self.kill(host)
            _ip("netns", "del", name)
        for process in self.started:
            process.wait(timeout=120)

    def kill(self, host: int) -> None:
        """As if its power went: whatever runs on it is gone, also what torchrun gave a session of its own."""
        while pids := _ip("netns", "pids", self.names[host]).split():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.05)

    def start(self, host: int, words: Sequence[str], variables: Mapping[str, str], log: str) -> subprocess.Popen[bytes]:
        """Start a command on one of them, in a group of processes of its own; what it prints is in the file `log`."""
        with open(self.logs / log, "wb") as output:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.names[host], *words], env={**os.environ, **NO_NAMES, **variables},
                cwd=self.logs, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.started.append(process)
        return process


def end(process: subprocess.Popen[bytes]) -> None:
    """`kill -9` of a process and of those of its group."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=120)


def torchrun(host: int, command: Sequence[str]) -> list[str]:
    """The words that start a command as one of two processes, each on its host."""
    return [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", str(host), "--nproc-per-node", "1",
        "--rdzv-backend", "static", "--master-addr", ADDRESSES[0], "--master-port", "29417", *command,
    ]  # fmt: skip


def srun(host: int) -> dict[str, str]:
    """What srun would tell the task of this host, of two."""
    return {
        "SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "ebm-train", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_PROCID": str(host), "SLURM_LOCALID": "0", "SLURM_NODEID": str(host), "SLURM_STEP_ID": "0",
        "SLURM_STEP_NODELIST": ",".join(ADDRESSES),
    }  # fmt: skip


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout
