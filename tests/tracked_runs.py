"""Eight runs side by side on one host, each in a process of its own: what a training writes, without the training.

Called as `python tracked_runs.py FOLDER ADDRESS NAME`; a run goes on to its second half when the file FOLDER/go is there.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from ebm_pipeline.tracking.environment import set_up_mlflow

set_up_mlflow()

from helpers import grey_picture  # noqa: E402

from ebm_pipeline.tracking import deadline  # noqa: E402
from ebm_pipeline.tracking.store import prepare_store  # noqa: E402
from ebm_pipeline.tracking.tracker import Tracker  # noqa: E402

deadline.CALL_SECONDS = 60.0  # of a machine that does more than these runs
RUNS = 8
EPOCHS = 6


def run(folder: Path, uri: str, experiment: str, name: str) -> None:
    own = folder / name
    own.mkdir()
    with Tracker.begin(own, uri, experiment, name, {}, "digest") as tracker:
        tracker.log_parameters({"seed": name})
        for epoch in range(EPOCHS):
            if epoch == EPOCHS // 2:
                (own / "half").touch()
                while not (folder / "go").exists():
                    time.sleep(0.05)
            tracker.log_metrics({"error": 1 / (epoch + 1), "epoch": float(epoch)}, epoch)
            tracker.log_image(grey_picture(own / "grey.png"), "fantasies", epoch)
        (own / "model.h5").write_bytes(name.encode() * 1000)
        tracker.log_file(own / "model.h5")


def main(folder: Path, uri: str, host: str) -> None:
    experiment = prepare_store(uri, folder, "hosts")
    children = []
    for number in range(RUNS):
        child = os.fork()
        if child == 0:
            try:
                run(folder, uri, experiment, f"{host}{number}")
            finally:
                sys.stdout.flush()
            os._exit(0)
        children.append(child)
    codes = [os.waitpid(child, 0)[1] for child in children]
    sys.exit(any(codes))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
