"""A DBM 784-500-1000 on MNIST binarised stochastically, centred, without layerwise pretraining and with.

`python -m benchmarks.deep [--output DIR]` prints the variational bound of the test images with the interval that the
likelihood card has for log Z, and how far the bound lies below the log-likelihood. Trainings that the folder holds
already are taken as they are. The mean field of training makes at most 10 steps, as a step of it costs two products.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.common import card, command, hardware

EPOCHS, PRETRAINING_EPOCHS = 30, 5
TEMPERATURES, CHAINS = 10_000, 200
RECIPE = (
    "data=mnist", "data/transform=stochastic", "model=dbm", "model.layers.hidden_1.units=500",
    "model.layers.hidden_2.units=1000", "model.penalties=[]", "mean_field.max_steps=10", "optimizer.lr=0.05",
    f"training.epochs={EPOCHS}", "tracking.log_model=false",
)  # fmt: skip
WAYS = {
    "without pretraining": ("model.pretraining=null",),
    "with pretraining": (f"model.pretraining.epochs={PRETRAINING_EPOCHS}", "model.pretraining.joint_learning_rate=0.5"),
}


def deep(output: Path) -> None:
    """Both cards, of the averaged weights."""
    for way, overrides in WAYS.items():
        folder = output / way.replace(" ", "_")
        model = folder / "model.h5"
        if not model.exists():
            done = command("ebm-train", *RECIPE, *overrides, f"hydra.run.dir={folder}", output=output)
            print(f"{way}: training {done.seconds:.0f} s in all", flush=True)
        print(f"\n{way}\n{card(model, TEMPERATURES, CHAINS)}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="keep the runs in this folder")
    print(hardware(), flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (parser.parse_args().output or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        deep(folder)
