"""One folder that two hosts work in: names, process ids and clocks of their own, which Linux's namespaces and faketime give here.

The folder itself is of this machine: what a network file system adds (NFS: locks through its server, delayed names) is not there.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import PLAIN, run_command
from kills import assert_identical, left_by
from mlflow.tracking import MlflowClient
from slurm import HOST, SHARED_MEMORY, no_hosts, until

from ebm_pipeline import cli
from ebm_pipeline.tracking import records

pytestmark = [pytest.mark.cluster, pytest.mark.skipif(bool(no_hosts()), reason=no_hosts())]
TRAIN = str(Path(sys.executable).parent / "ebm-train")
PATIENCE = 900  # seconds, of a machine that has other work
HOLD = """
import sys, time; from pathlib import Path; from ebm_pipeline.support import files
left = files.partial_name(Path(sys.argv[1])); left.touch(); print(left.name, flush=True); time.sleep(600)
"""
CLEAN = """
import sys; from pathlib import Path; from ebm_pipeline.support import files
print(files.partial_name(Path(sys.argv[1])).name); files.remove_leftovers(Path(sys.argv[1]))
"""


def on_host(
    name: str, *words: str, minutes: float = 0, variables: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    """A process on a host of this name, whose clock is off by so many minutes; killed, it takes all that runs there along."""
    clock = ["faketime", "-f", f"{minutes:+}m"] if minutes else []
    settings = {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1", **(variables or {})}
    command = f"{SHARED_MEMORY} && hostname {name} && exec {shlex.join([*clock, *words])}"
    return subprocess.Popen(
        [*HOST, "bash", "-c", command],
        env=os.environ | settings,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def test_two_containers_of_one_name_keep_what_the_other_is_writing(tmp_path: Path) -> None:
    """As two containers of one machine: the same host name, and the same process ids for other processes."""
    path = str(tmp_path / "images.h5")
    one = on_host("same", sys.executable, "-c", HOLD, path)
    assert one.stdout is not None
    held = one.stdout.readline().strip()
    said, _ = on_host("same", sys.executable, "-c", CLEAN, path).communicate(timeout=PATIENCE)
    assert held.split(".")[3:] == said.strip().split(".")[3:]  # process and attempt
    assert held != said.strip()
    assert (tmp_path / held).exists()
    one.kill()
    one.communicate()


@pytest.mark.skipif(shutil.which("faketime") is None, reason="no faketime: apt-get install faketime (Debian)")
def test_a_run_goes_on_on_another_host_whose_clock_is_minutes_off(tmp_path: Path) -> None:
    words = (*PLAIN, "model=rbm", "training.epochs=250", "resume=auto")
    shared, here = tmp_path / "shared", tmp_path / "here"
    shared.mkdir()
    variables = {"EBM_OUTPUT_DIR": str(shared)}

    def begun(count: int) -> bool:
        return len(list(shared.glob("runs/*/checkpoints/last.ckpt"))) == count

    ahead = on_host("ahead", TRAIN, *words, minutes=7, variables=variables)
    until("it trains", lambda: begun(1) or ahead.poll() is not None, PATIENCE)
    ahead.kill()  # the host and all on it
    said, _ = ahead.communicate()
    behind = on_host("behind", TRAIN, *words, minutes=-7, variables=variables)
    third = on_host("third", TRAIN, *words, minutes=3, variables=variables)
    ended = {name: process.communicate(timeout=PATIENCE)[0] for name, process in (("behind", behind), ("third", third))}
    codes = {"behind": behind.returncode, "third": third.returncode}
    assert sorted(codes.values()) == [0, 1], ended
    winner, loser = sorted(codes, key=lambda name: codes[name])
    assert "going on with the run" in ended[winner]
    assert "another process is at work on the run in" in ended[loser]
    assert "Traceback" not in said + ended[winner] + ended[loser]
    (folder,) = (path.parent for path in shared.glob("runs/*/run.json"))

    run_command(cli.train, *words, f"hydra.run.dir={here / 'run'}", output_root=here)
    one, two = left_by(folder, shared), left_by(here / "run", here)
    assert_identical(one | {"params": 0}, two | {"params": 0})
    run_id = records.read_run_file(folder)["run_id"]
    info = MlflowClient(f"sqlite:///{shared / 'mlflow.db'}").get_run(run_id).info
    assert info.status == "FINISHED"
