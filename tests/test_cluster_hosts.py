"""One model on two hosts, started by torchrun and by the variables of srun: two network namespaces, gloo."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import PLAIN, composed, own_run
from hosts import Hosts, skip_without_hosts, srun, torchrun
from kills import assert_identical, left_by, run_count
from test_processes import CASES, trained

from ebm_pipeline.runs import train
from ebm_pipeline.support.errors import UserError
from ebm_pipeline.training.checkpoints import LAST

pytestmark = pytest.mark.cluster

EPOCHS = 60
SETTINGS = (*PLAIN, "model=rbm", f"training.epochs={EPOCHS}", "trainer.accelerator=cpu")
COMMAND = (str(Path(sys.executable).parent / "ebm-train"), *SETTINGS, "trainer=nodes")
SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
from ebm_pipeline.training import processes
from test_processes import trained

def work(path):
    states = trained()
    if processes.rank() == 0:
        torch.save(states, path)

if processes.launched().rank == 0:
    with processes.started(2, work, (sys.argv[2],)):
        work(sys.argv[2])
else:
    sys.modules["__main__"].work = work
    processes.follow()
"""


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    skip_without_hosts()
    with Hosts(tmp_path) as both:
        yield both


def said(hosts: Hosts, name: str) -> str:
    return (hosts.logs / name).read_text(errors="replace")


def test_two_hosts_make_the_steps_of_one_process(hosts: Hosts, tmp_path: Path) -> None:
    """Started as by srun. Parameters and offsets are equal to the rounding of the all-reduce."""
    words = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(tmp_path / "states.pt")]
    both = [hosts.start(host, words, srun(host), f"{host}.log") for host in (0, 1)]
    torch.set_num_threads(1)
    alone = trained()
    codes = [process.wait(timeout=600) for process in both]
    assert codes == [0, 0], said(hosts, "0.log") + said(hosts, "1.log")
    together: dict[str, list[dict[str, torch.Tensor]]] = torch.load(tmp_path / "states.pt", weights_only=True)
    for case in CASES:
        (expected,), (first, second) = alone[case], together[case]
        chains = [name for name in expected if name.startswith("chain")]
        for name in expected.keys() - set(chains):
            assert torch.equal(first[name], second[name]), f"{case}: {name} is not the same on both hosts"
            torch.testing.assert_close(first[name], expected[name], rtol=1e-4, atol=1e-6)
        assert chains


def test_a_run_on_two_hosts_goes_on_after_one_of_them_is_gone(hosts: Hosts, tmp_path: Path) -> None:
    """By torchrun; the end is that of a run in two processes of one host, bit by bit."""
    outputs, folder, alone = (tmp_path / name for name in ("outputs", "hosts/run", "alone/run"))
    variables = {"EBM_OUTPUT_DIR": str(outputs)}
    command = [*COMMAND, f"hydra.run.dir={folder}"]
    first, second = (hosts.start(host, torchrun(host, command), variables, f"{host}.log") for host in (0, 1))
    until = time.monotonic() + 300
    while not (folder / "checkpoints" / "before.ckpt").exists():
        assert first.poll() is None, said(hosts, "0.log")
        assert time.monotonic() < until, said(hosts, "0.log")
        time.sleep(0.05)
    hosts.kill(1)
    second.wait(timeout=60)
    assert first.wait(timeout=600) == 1, said(hosts, "0.log")
    assert "another process of this training is gone" in said(hosts, "0.log")
    assert "resume=auto" in said(hosts, "0.log")
    assert own_run(folder).status == "FAILED"
    assert not (folder / "model.h5").exists()

    with pytest.raises(UserError, match=r"trainer\.devices: 1 there, 2 here; trainer\.num_nodes: 2 there, nothing here|"
                                        r"trainer\.devices: 1 there, 2 here"):  # fmt: skip
        train.train(composed(*SETTINGS, "trainer=ddp", "resume=auto", output_root=outputs), folder)

    again = [
        hosts.start(host, torchrun(host, [*command, "resume=auto"]), variables, f"{host}.again.log") for host in (0, 1)
    ]
    train.train(composed(*SETTINGS, "trainer=ddp", output_root=outputs), alone)
    codes = [process.wait(timeout=600) for process in again]
    assert codes == [0, 0], said(hosts, "0.again.log") + said(hosts, "1.again.log")
    assert "going on with the run" in said(hosts, "0.again.log")
    expected, left = left_by(alone, outputs), left_by(folder, outputs)
    left["params"] = expected["params"]
    assert_identical(left, expected)
    assert run_count(folder, outputs) == 1
    saved: dict[str, Any] = torch.load(folder / "checkpoints" / LAST, weights_only=True)
    (other,) = saved["others"]
    assert not torch.equal(other["chains"]["chain_0"], saved["state_dict"]["chain_0"])
    done = [
        hosts.start(host, torchrun(host, [*command, "resume=auto"]), variables, f"{host}.done.log") for host in (0, 1)
    ]
    assert [process.wait(timeout=600) for process in done] == [0, 0], said(hosts, "0.done.log")  # the other is let go
    assert "nothing left to do" in said(hosts, "0.done.log")


def test_a_sweep_whose_jobs_use_two_processes_each(tmp_path: Path) -> None:
    command = str(Path(sys.executable).parent / "ebm-train")
    words = ("-m", *PLAIN, "model=rbm", "training.epochs=1", "trainer=ddp", "trainer.accelerator=cpu", "seed=1,2",
             "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", f"hydra.sweep.dir={tmp_path / 'sweep'}")  # fmt: skip
    done = subprocess.run(
        [command, *words], env=os.environ | {"EBM_OUTPUT_DIR": str(tmp_path)}, capture_output=True, text=True,
        timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 jobs: 2 finished, 0 not" in done.stdout
    for number in (0, 1):
        saved = torch.load(tmp_path / "sweep" / f"{number}_rbm" / "checkpoints" / LAST, weights_only=True)
        assert len(saved["others"]) == 1
