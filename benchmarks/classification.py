"""Classification by an RBM of images and labels, 784 + 10 - 500, on MNIST: the test error after training by the default path.

`python -m benchmarks.classification` trains it (generative training alone, the default recipe but for the settings in
SETTINGS) and classifies the test part; `python -m benchmarks.classification MODEL ...` classifies with the model.h5 of runs
that are finished.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from benchmarks.common import SEED, command, hardware, table
from ebm_pipeline.models.inference import MeanField
from ebm_pipeline.models.storage import load_model
from ebm_pipeline.runs.configuration import build_data
from ebm_pipeline.tasks import Classification

SETTINGS = ("data=mnist", "model=rbm_labels", "hidden_units=500", "training.epochs=32", "optimizer.lr=0.25")
HEADER = ("model", "epochs", "part", "images", "error", "standard error", "-log p(label | image), nats")


def rows(path: Path) -> list[list[str]]:
    """Lines of the table for one model: the error on test and validation images."""
    saved = load_model(path)
    config = OmegaConf.create(saved.config)
    assert isinstance(config, DictConfig)
    data = build_data(config)
    ask = Classification(MeanField(config.mean_field.tolerance, config.mean_field.max_steps))
    name = " - ".join(str(layer.units) for layer in saved.machine.layers)
    found = []
    for part in ("test", "validation"):
        images = data.images(part)
        metrics = ask(saved, images, SEED).metrics
        found.append(
            [
                name, str(config.training.epochs), part, str(len(images)), f"{metrics['classification_error']:.2%}",
                f"{metrics['classification_error_std_error']:.2%}", f"{metrics['cross_entropy_nats']:.3f}",
            ]
        )  # fmt: skip
    return found


def main(paths: list[Path]) -> None:
    """Print the table of these models, or train one."""
    print(hardware(), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        if not paths:
            done = command("ebm-train", *SETTINGS, f"seed={SEED}", f"hydra.run.dir={folder}/run", output=Path(folder))
            print(f"{' '.join(SETTINGS)}: {done.seconds:.0f} s in all\n")
            paths = [Path(folder) / "run" / "model.h5"]
        table(HEADER, [row for path in paths for row in rows(path)])


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
