"""The pictures of README.md and docs/: `python -m benchmarks.pictures` trains what they show and writes docs/pictures/."""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from benchmarks.common import SEED, command, hardware
from benchmarks.resume import differences, ebm_train, left_by
from ebm_pipeline import plots
from ebm_pipeline.plots.frame import COLOURS, panels
from ebm_pipeline.support.files import whole_file

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"
NAMES = ("overview", "interval", "verdict", "resume")  # of the files, .png
SHADES = 64  # colours of a file, which keeps it small
MNIST = (28, 28)
ACROSS = 12  # images side by side
WATCHED = "validation/pseudo_likelihood"
INTERRUPTED = ("data=digits", "training.epochs=30", f"seed={SEED}")
KILLED_IN = "epoch 14/"  # what the line of progress says when the process is killed
Curve = tuple[list[int], list[float]]


def main() -> None:
    """Train, draw and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pictures", description=__doc__)
    parser.add_argument(
        "--output", type=Path, help="keep the runs in this folder; those that are there are not made again"
    )
    given = parser.parse_args().output
    print(hardware(), flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        output = (given or Path(temporary)).absolute()
        persistent, restarted = output / "runs" / "pcd", output / "runs" / "cd"
        alone, killed = output / "runs" / "alone", output / "runs" / "killed"
        mnist = (
            "data=mnist",
            "model=rbm",
            "model.penalties=[]",
            "optimizer.lr=0.05",  # by which the pictures were made that stand in docs/pictures
            "evaluation=full",
            f"evaluation.digits={2 * ACROSS}",
            f"seed={SEED}",
            "resume=auto",
        )
        command("ebm-train", *mnist, f"hydra.run.dir={persistent}", output=output)
        command("ebm-train", *mnist, "objective=cd", "likelihood=null", f"hydra.run.dir={restarted}", output=output)
        command("ebm-train", *INTERRUPTED, "resume=auto", f"hydra.run.dir={alone}", output=output)
        until = killed_and_resumed(killed, output)
        keep(plots.to_rgb(overview(persistent)), "overview")
        keep(np.asarray(Image.open(persistent / "log_partition.png").convert("RGB")), "interval")
        keep(plots.to_rgb(verdicts(persistent, restarted)), "verdict")
        keep(plots.to_rgb(resumed(alone, killed, until)), "resume")
    print(f"{FOLDER}: {sum(path.stat().st_size for path in FOLDER.iterdir()) / 1000:.0f} kB")


def keep(pixels: NDArray[np.uint8], name: str) -> None:
    """Write a picture (height, width, 3)."""
    FOLDER.mkdir(exist_ok=True)
    with whole_file(FOLDER / f"{name}.png") as partial:
        Image.fromarray(pixels).quantize(SHADES, dither=Image.Dither.NONE).save(partial, format="png", optimize=True)


def overview(run: Path) -> Figure:
    """Images of the data, what the machine makes of them, and what it makes by itself."""
    images = pictures_of(run)
    rows = {
        "Data": images["data"],
        "Reconstructed": images["reconstructions"],
        "Noisy": images["noisy"],
        "Restored": images["denoised"],
    }
    rows = {name: tiles[:ACROSS] for name, tiles in rows.items()}
    drawn = {"Fantasies": images["fantasies"][:ACROSS], " ": images["fantasies"][ACROSS:]}
    how = "RBM of 200 hidden units, 20 epochs. Fantasies: from noise, 1,000 Gibbs sweeps"
    return plots.comparison(rows | drawn, MNIST, "MNIST: what the machine sees, restores and makes", how)


def verdicts(trusted: Path, other: Path) -> Figure:
    """Two machines that reconstruct alike, of which one makes no digits."""
    rows: dict[str, Any] = {"Data": pictures_of(trusted)["data"][:ACROSS]}
    said = []
    for name, run in (("PCD-1", trusted), ("CD-1", other)):
        images, verdict = pictures_of(run), json.loads((run / "verdict.json").read_text(encoding="utf-8"))
        rows[f"{name}, reconstructed"] = images["reconstructions"][:ACROSS]
        rows[f"{name}, fantasies"] = images["fantasies"][:ACROSS]
        said.append(f"{name}: {verdict['name']}")
    return plots.comparison(
        rows,
        MNIST,
        "; ".join(said),
        "Alike in what is watched in training; 1,000 Gibbs sweeps from noise tell them apart",
    )


def pictures_of(run: Path) -> dict[str, NDArray[Any]]:
    """The images behind the last pictures of a run."""
    with h5py.File(run / "pictures.h5") as file:
        return {name: file[name][:] for name in ("data", "reconstructions", "noisy", "denoised", "fantasies")}


# ---------------------------------------------------------------------------------------------- killed and resumed


def killed_and_resumed(folder: Path, output: Path) -> int:
    """A run that is killed and goes on; how many epochs its checkpoint held at the kill, which a file keeps."""
    note = folder.with_suffix(".killed")
    if not note.exists():
        words = [str(ebm_train()), *INTERRUPTED, f"hydra.run.dir={folder}"]
        with subprocess.Popen(
            words, env=os.environ | {"EBM_OUTPUT_DIR": str(output)}, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if KILLED_IN in line:
                    process.send_signal(signal.SIGKILL)
                    break
        if process.wait() != -signal.SIGKILL:
            raise SystemExit("the run ended before it was killed")
        (checkpoint,) = (folder / "checkpoints").rglob("last.ckpt")
        note.write_text(str(torch.load(checkpoint, weights_only=True)["epoch"] + 1), encoding="utf-8")
    command("ebm-train", *INTERRUPTED, "resume=auto", f"hydra.run.dir={folder}", output=output)
    return int(note.read_text(encoding="utf-8"))


def resumed(alone: Path, killed: Path, until: int) -> Figure:
    """The curve of the run that was killed on that of the run that was left alone, and their difference."""
    left, again = left_by(alone), left_by(killed)
    differing = differences(left, again)
    if differing:
        raise SystemExit(f"the resumed run differs in {', '.join(differing)}")
    (epochs, expected), (_, found) = curve(alone), curve(killed)
    legend = {"never interrupted": "#bbbbbb", "until the kill": COLOURS[0], "resumed": COLOURS[1]}
    title = f"Killed in epoch {until + 1} and resumed: the same run"
    how = f"RBM on digits; {len(left)} arrays, metrics and counters of checkpoints, models and store compared: all bits equal"
    with panels(2, 2, (2.95, 2.0), title, how, legend) as (figure, (left_panel, right_panel)):
        left_panel.plot(epochs, expected, color=legend["never interrupted"], linewidth=5)
        left_panel.plot(
            epochs[: until + 1], found[: until + 1], color=legend["until the kill"], marker=".", linewidth=1
        )
        left_panel.plot(epochs[until + 1 :], found[until + 1 :], color=legend["resumed"], marker=".", linewidth=1)
        left_panel.set(xlabel="epoch", ylabel="pseudo-likelihood\n(nats per image)")
        right_panel.axvline(until, color="#999999", linestyle=":")
        right_panel.plot(epochs, np.subtract(found, expected), color=legend["resumed"], marker=".", linewidth=1)
        right_panel.set(xlabel="epoch", ylabel="difference (nats per image)", ylim=(-1e-7, 1e-7))
    return figure


def curve(run: Path) -> Curve:
    """Epochs and values of what is watched."""
    with open(run / "metrics.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row[WATCHED]]
    return [int(row["time/epoch"]) for row in rows], [float(row[WATCHED]) for row in rows]


if __name__ == "__main__":
    main()
