"""A real Slurm of two nodes on this machine: all of it in one folder, on ports of its own, gone at the end."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from servers import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "unshare", "setpriv")
PACKAGES = "apt-get install --no-install-recommends slurm-wlm munge"
NODES = ("one", "two")
HOST = (
    "unshare",
    "--uts",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
)  # a name, process ids and mounts of its own
SHARED_MEMORY = "mount -t tmpfs shm /dev/shm"  # the first that a host does: names there are of processes


def missing() -> str:
    """Why no Slurm can be started here; empty if one can."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    absent = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    return f"no {', '.join(absent)}: {PACKAGES} (Debian)" if absent else no_hosts()


def no_hosts() -> str:
    """Why this machine cannot stand for several hosts; empty if it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "only root of a Linux makes namespaces, which stand for hosts"
    trial = [*HOST, "bash", "-c", f"{SHARED_MEMORY} && hostname {NODES[0]}"]
    if subprocess.run(trial, capture_output=True, check=False).returncode:
        return "no namespaces, which stand for hosts: the container may not make any (CAP_SYS_ADMIN)"
    return ""


def until(what: str, holds: Callable[[], object], seconds: float = 60) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.2)


class Slurm:
    """As a context manager: started, and ended with the block; also where this process is killed."""

    def __init__(self, cpus: int = 2) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        ports = {name: free_port() for name in ("controller", *NODES)}
        conf = Path(__file__).with_name("slurm.conf").read_text()
        (self.folder / "slurm.conf").write_text(conf.format(folder=self.folder, cpus=cpus, **ports))
        self.variables = {
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin",
        }

    def __enter__(self) -> Slurm:
        try:
            self._start_all()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for process in reversed(self.running.values()):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        shutil.rmtree(self.folder)

    def _start_all(self) -> None:
        at = self.folder
        (at / "munge.key").write_bytes(secrets.token_bytes(128))
        (at / "munge.key").chmod(0o400)
        at.chmod(0o755)  # munged asks for it
        paths = [f"--{word}-file={at}/munge.{word}" for word in ("key", "pid", "log", "seed")]
        self._start("munged", "munged", "--foreground", "--force", f"--socket={at}/munge.socket", *paths)
        until("munged", (at / "munge.socket").exists)
        self.start_controller()
        for name in NODES:
            self.start_node(name)
        until("the nodes", lambda: list(self.nodes().values()) == ["idle"] * len(NODES))

    def _start(self, name: str, *words: str) -> None:
        with open(self.folder / f"{name}.out", "ab") as output:
            self.running[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *words], env=os.environ | self.variables, stdin=subprocess.DEVNULL,
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def start_controller(self) -> None:
        self._start("slurmctld", "slurmctld", "-D", "-f", self.variables["SLURM_CONF"])

    def start_node(self, name: str) -> None:
        """Start a node, also one that went away."""
        self._start(
            name,
            *HOST,
            "bash",
            "-c",
            f"{SHARED_MEMORY} && hostname {name} && slurmd -D -N {name} -f $SLURM_CONF & wait",
        )

    def kill(self, name: str) -> None:
        """As a power failure, of a node with all that runs on it or of a daemon."""
        self.running[name].kill()
        self.running[name].wait()

    def nodes(self) -> dict[str, str]:
        """What state each node is in."""
        lines = self._asked("sinfo", "--Node", "--noheader", "--format=%N %T").stdout.split("\n")
        return dict(line.split() for line in lines if line)

    def jobs(self, *words: str) -> dict[str, str]:
        """The state of each job that waits or runs, by its id; words: more options of squeue."""
        lines = self.ask("squeue", "--array", "--noheader", "--format=%i %T", *words).split("\n")
        return dict(line.split() for line in lines if line)

    def seconds(self, job: str) -> int:
        """For how long a job has run, also one that was stopped."""
        clock = self.ask("squeue", "--states=all", f"--jobs={job}", "--noheader", "--format=%M").strip()
        return sum(int(part) * 60**power for power, part in enumerate(reversed(clock.split(":"))))

    def places(self) -> dict[str, str]:
        """On which node each job runs."""
        lines = self.ask("squeue", "--states=running", "--noheader", "--format=%i %N").split("\n")
        return dict(line.split() for line in lines if line)

    def ask(self, *words: str, variables: Mapping[str, str] | None = None) -> str:
        """What a command of Slurm prints; fails where that fails."""
        done = self._asked(*words, variables=variables)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout

    def _asked(self, *words: str, variables: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        environment = dict(variables or os.environ) | self.variables
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
