"""Likelihoods of trained models, and the time of the study, on digits and on MNIST."""

from __future__ import annotations

from pathlib import Path

from benchmarks.common import LogLikelihood, ais, command, table
from ebm_pipeline.evaluation.ais import LogPartition
from ebm_pipeline.models.storage import load_model

HEADER = ["model", "test, nats per image", "standard error", "effective sample size", "temperatures"]


def row(name: str, result: LogLikelihood) -> list[str]:
    """A line of the table of likelihoods."""
    estimate = result.log_partition
    value = f"{result.nats:.2f}{' (bound)' if result.is_bound else ''}"
    if not isinstance(estimate, LogPartition):
        return [name, value, "exact", "-", "-"]
    return [
        name, value, f"{estimate.std_error:.2f}", f"{estimate.ess:.0f} of {estimate.chains}", str(estimate.temperatures)
    ]  # fmt: skip


def digits(output: Path) -> None:
    """`make reproduce` without the installation, and the default RBM on digits."""
    folder = output / "digits"
    done = command("ebm-train", "experiment=study", "data=digits", output=folder)
    print(f"the study on digits: {done.seconds:.0f} s\n")
    command("ebm-train", "data=digits", "model=rbm", f"hydra.run.dir={folder}/rbm", output=folder)
    rows = [row("RBM 64-64, default settings", ais(folder / "rbm" / "model.h5", "test", 10_000))]
    table(HEADER, rows)


def likelihood(output: Path) -> None:
    """The default RBM 784-200 on thresholded MNIST after 20 epochs, by forward AIS, with the temperatures doubled too."""
    folder = output / "mnist"
    done = command("ebm-train", "data=mnist", "model=rbm", f"hydra.run.dir={folder}/rbm", output=folder)
    print(f"training: {done.seconds:.0f} s in all\n")
    rows = [row("RBM 784-200, default settings", ais(folder / "rbm" / "model.h5", "test", n)) for n in (30_000, 60_000)]
    table(HEADER, rows)


def study(output: Path) -> None:
    """The study on MNIST: its time, and the likelihood of each of its models by forward AIS."""
    folder = output / "study"
    done = command("ebm-train", "experiment=notebook", f"hydra.sweep.dir={folder}/sweep", output=folder)
    print(f"the study on MNIST: {done.seconds / 60:.1f} minutes\n")
    study_likelihoods(folder / "sweep")


def sparsity(output: Path) -> None:
    """RBM with L1 by subgradient and by proximal step, by our recipe and the study's: weights exactly 0, likelihoods."""
    rows = []
    for recipe in ("data=mnist", "experiment=notebook"):
        for model in ("rbm_l1", "rbm_l1_proximal"):
            folder = output / "sparsity" / f"{recipe.split('=')[1]}_{model}"
            command(
                "ebm-train",
                recipe,
                f"model={model}",
                "hydra.mode=RUN",
                f"hydra.run.dir={folder}",
                output=output / "sparsity",
            )
            weights = load_model(folder / "model.h5").machine.weights[0]
            zeros = f"{float((weights == 0).float().mean()):.1%}"
            rows.append([recipe, *row(model, ais(folder / "model.h5", "test", 20_000)), zeros])
    table(["recipe", *HEADER, "weights exactly 0"], rows)


def study_likelihoods(sweep: Path) -> None:
    """Likelihoods of the models of a finished study, the DBM's pretrained start included."""
    models = {
        "Hopfield": "3_hopfield/model.h5",
        "RBM": "1_rbm/model.h5",
        "RBM (L1)": "2_rbm_l1/model.h5",
        "DBM, pretrained": "0_dbm/pretrained.h5",
        "DBM, trained jointly": "0_dbm/model.h5",
    }
    table(HEADER, [row(name, ais(sweep / path, "test", 20_000)) for name, path in models.items()])
