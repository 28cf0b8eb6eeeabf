"""Data-parallel training: several processes train one model, each on its share of every batch and of the chains.

The gradient is a mean over data minus a mean over chains. Shares are of equal size, so its mean over the processes is the
gradient of one process with all of the data and chains; parameters and offsets stay the same everywhere. The processes of one
machine are started here and not by Lightning, whose launcher runs the command line again: they do the trainings alone, and the
first, which is the one that the user started, also logs, draws and writes. Those of several machines are started by torchrun or
srun, all with the same command: the first does that, and gives the others the trainings.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
import torch
import torch.distributed as dist
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor

from ebm_pipeline.support.errors import UserError
from ebm_pipeline.support.interruption import SIGNALS
from ebm_pipeline.support.launched import launched

T = TypeVar("T")
CONTEXT = multiprocessing.get_context("forkserver")  # the packages are imported once for all, and no CUDA is forked
GLOO = "GLOO_SOCKET_IFNAME"  # the interface on which gloo listens
FIRST_PORT, PORTS = 15_000, 10_000  # where processes that srun started meet
SECONDS_TO_END = 10  # for a process that has nothing left to do, and for one whose connection broke


# ---------------------------------------------------------------------------------------------- among the processes


def count() -> int:
    """Processes of this training; 1 where there is no group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def seed(common: int) -> int:
    """A seed for this process alone; the first, and a process without others, keeps the common one."""
    if rank() == 0:
        return common
    return int(np.random.SeedSequence((common, rank())).generate_state(1, np.uint64)[0] >> 1)


def share(batch: Tensor) -> Tensor:
    """This process's rows (ceil(batch / processes), units) of a batch (batch, units) that all of them have.

    A batch that cannot be shared evenly, the last of an epoch, is filled up with its own first rows, as torch's
    DistributedSampler does.
    """
    if count() == 1:
        return batch
    rows = torch.arange(rank(), -(-len(batch) // count()) * count(), count(), device=batch.device)
    return batch[rows % len(batch)]


def average(tensors: Sequence[Tensor]) -> None:
    """Replace the tensors by their means over the processes, in place, in one all-reduce."""
    if count() == 1:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    flat /= count()
    for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))


def gathered(value: T) -> list[T]:
    """The values of all processes, by rank."""
    values = [value] * count()
    if count() > 1:
        dist.all_gather_object(values, value)
    return values


def decided(make: Callable[[], T]) -> T:
    """What the first process makes, for all of them."""
    if count() == 1:
        return make()
    values = [make() if rank() == 0 else None]
    dist.broadcast_object_list(values)
    return values[0]  # type: ignore[return-value]


# ---------------------------------------------------------------------------------------------- Lightning's part


def environment() -> list[ClusterEnvironment]:
    """What Lightning is told of a process that trains alone, whatever variables of Slurm or torchrun it was started with."""
    return [] if count() > 1 else [LightningEnvironment()]


class _Environment(LightningEnvironment):
    """Of processes that are there already."""

    @property
    def creates_processes_externally(self) -> bool:
        return True

    def local_rank(self) -> int:
        own = launched()
        return rank() if own is None else own.local_rank


class ProcessStrategy(DDPStrategy):
    """Lightning's DDP without torch's wrapper.

    The wrapper averages what autograd makes, which is not used here, and gives every process the first one's buffers, which
    would make all chains the same.
    """

    def __init__(self) -> None:
        super().__init__(cluster_environment=_Environment())

    def set_world_ranks(self) -> None:
        """Those of the group, however its processes lie on machines."""
        assert self.cluster_environment is not None
        self.cluster_environment.set_global_rank(rank())
        self.cluster_environment.set_world_size(count())

    def _configure_launcher(self) -> None:
        self._launcher = None

    def configure_ddp(self) -> None:
        """Leave the module as it is."""


# ---------------------------------------------------------------------------------------------- starting and ending


@contextmanager
def started(processes: int, target: Callable[..., object], arguments: tuple[Any, ...]) -> Iterator[None]:
    """Within it this process is the first of a group; the others call target(*arguments), and end with it at the latest.

    target: a function of a module, which is imported there. Raises UserError if one of the others fails.
    """
    if processes == 1:
        yield
        return
    if launched() is not None:
        with _led(target, arguments):
            yield
        return
    failures = CONTEXT.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        meeting = Path(folder) / "meeting"
        others = [
            CONTEXT.Process(target=_other, args=(number, processes, meeting, failures, target, arguments), daemon=True)
            for number in range(1, processes)
        ]
        try:
            for process in others:
                process.start()
            _join(0, processes, meeting, lambda: _check(others))
            yield
            dist.destroy_process_group()
            for process in others:
                process.join(SECONDS_TO_END)
        except RuntimeError as error:  # torch's, when a process is gone
            wait([process.sentinel for process in others], SECONDS_TO_END)
            if not failures.empty():
                raise UserError(failures.get()) from error
            _check(others)
            raise
        finally:
            for process in others:
                if process.is_alive():
                    process.kill()  # it holds nothing that would be lost
                process.join()
            if dist.is_initialized():
                dist.destroy_process_group()


def _check(others: Sequence[Any]) -> None:
    """Raise if one of the other processes has ended by itself."""
    for number, process in enumerate(others, start=1):
        if process.exitcode:
            raise UserError(
                f"process {number} of this training ended by itself (exit code {process.exitcode}; -9: killed, often for "
                "want of memory): set trainer.devices to fewer, or go on with resume=auto"
            )


def _join(number: int, processes: int, meeting: Path, check: Callable[[], None]) -> None:
    """Become member `number` of the group once all are there; its servers listen on this machine alone."""
    store = dist.FileStore(str(meeting), processes)  # type: ignore[attr-defined]
    store.add("there", 1)
    while store.add("there", 0) < processes:
        check()
        time.sleep(0.02)
    with _loopback():
        dist.init_process_group(_backend(), store=store, rank=number, world_size=processes)


@contextmanager
def _loopback() -> Iterator[None]:
    """Let gloo listen on this machine alone, unless it is told where; what this process starts later is not told."""
    found = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    own = bool(found) and GLOO not in os.environ
    if own:
        os.environ[GLOO] = found[0]
    try:
        yield
    finally:
        if own:
            del os.environ[GLOO]


def _backend() -> str:
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"


def _other(
    number: int, processes: int, meeting: Path, failures: Any, target: Callable[..., object], arguments: tuple[Any, ...]
) -> None:
    """The work of a process that is not the first, to which alone signals are left."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_first, daemon=True).start()
    try:
        _join(number, processes, meeting, lambda: None)
        target(*arguments)
        dist.destroy_process_group()
    except UserError as error:  # most often the first meets the same
        failures.put(str(error))
        sys.exit(1)
    except RuntimeError:  # torch's, when the first is gone
        time.sleep(SECONDS_TO_END)  # in which this process ends too
        raise


def _end_with_the_first() -> None:
    first = multiprocessing.parent_process()
    assert first is not None
    first.join()
    os._exit(1)


# ---------------------------------------------------------------------------------------------- of several machines

_met = False  # whether this process has been in the group that torchrun or srun started


def _meet() -> None:
    """Become a member of that group, once all of it are there."""
    global _met
    _met = True
    own = launched()
    assert own is not None
    if own.by == "srun":
        _place_of_the_step()
    _choose_interface(os.environ["MASTER_ADDR"])
    dist.init_process_group(_backend(), rank=own.rank, world_size=own.count)


def _place_of_the_step() -> None:
    """Where the first process of a step of Slurm is met, unless that is given: its first node, a port by job and step."""
    nodes = os.environ.get("SLURM_STEP_NODELIST", "127.0.0.1")
    os.environ.setdefault("MASTER_ADDR", SLURMEnvironment.resolve_root_node_address(nodes))
    numbers = (os.environ.get(name, "") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    port = FIRST_PORT + sum(int(number) for number in numbers if number.isdecimal()) % PORTS
    os.environ.setdefault("MASTER_PORT", str(port))


def _choose_interface(address: str) -> None:
    """Let gloo listen where the first process is reached: it takes the address of the machine's name, often the loopback."""
    with suppress(OSError):
        family, _, _, _, place = socket.getaddrinfo(address, 1, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:  # which sends nothing
            probe.connect(place)
            own = probe.getsockname()[0]
        for name, addresses in psutil.net_if_addrs().items():
            if own in (one.address for one in addresses):
                os.environ.setdefault(GLOO, name)


@contextmanager
def _led(target: Callable[..., object], arguments: tuple[Any, ...]) -> Iterator[None]:
    """As `started`, with the processes that torchrun or srun has started, of which this is the first."""
    try:
        _meet()
        decided(lambda: (target, arguments))
        yield
        dist.barrier()
    except RuntimeError as error:
        if not _of_the_group(error):
            raise
        raise UserError(
            f"another process of this training is gone ({str(error).splitlines()[0]}): see what it has said, then start all of "
            "them again with resume=auto"
        ) from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def follow() -> None:
    """What those that are not the first do: what that gives them. Signals are left to it; they end with it at the latest."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    own = launched()
    assert own is not None
    name = f"process {own.rank} of this training, on {socket.gethostname()}"
    try:
        _meet()
        work = decided(lambda: None)
        if work is not None:
            target, arguments = work  # type: ignore[unreachable]
            target(*arguments)
            dist.barrier()
        dist.destroy_process_group()
    except UserError as error:
        sys.exit(f"error: {name}: {error}")
    except RuntimeError as error:
        if not _of_the_group(error):
            raise
        sys.exit(f"error: {name}: another one is gone ({str(error).splitlines()[0]})")


def dismiss() -> None:
    """Let the others go, by the first, where it has begun no training."""
    if _met or launched() is None:
        return
    with suppress(RuntimeError):
        _meet()
        decided(lambda: None)
        dist.destroy_process_group()


def _of_the_group(error: RuntimeError) -> bool:
    """Whether torch says so of a connection to another process."""
    return isinstance(error, dist.DistError) or any(name in str(error).lower() for name in ("gloo", "nccl"))
