"""What a training went on from, for its learning curves: pretraining, or the model of another run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ebm_pipeline.runs import swept
from ebm_pipeline.tracking.records import RunRecord

if TYPE_CHECKING:  # with it comes Lightning, which a comparison does without
    from ebm_pipeline.training.pretraining import Pretraining

MOST_NAMED = 3  # runs that one sentence names


def before(pretraining: Pretraining | None, hidden_layers: int, start: str = "") -> str:
    """Of a training that begins as the model `start` where there is one; empty where its first epoch is the first of all."""
    if start:
        return _begins_as(start)
    return _pretrained(pretraining.epochs, hidden_layers, pretraining.grow) if pretraining else ""


def before_run(run: RunRecord) -> str:
    """The same of a run that the store has, by its configuration."""
    if start := swept.setting(run, "initialization.run"):
        return _begins_as(start)
    epochs = swept.setting(run, "model.pretraining.epochs")
    if not epochs.isdecimal():
        return ""
    hidden = run.params.get("hidden", "")
    return _pretrained(int(epochs), len(hidden.split("-")), swept.setting(run, "model.pretraining.grow") == "True")


def before_runs(runs: Mapping[str, RunRecord]) -> list[str]:
    """A sentence for those of the runs, by name, that have the same to say."""
    said: dict[str, list[str]] = {}
    for name, run in runs.items():
        if sentence := before_run(run):
            said.setdefault(sentence, []).append(name)
    return [
        f"{', '.join(names) if len(names) <= MOST_NAMED else f'{len(names)} runs'}: {sentence}"
        for sentence, names in said.items()
    ]


def _begins_as(name: str) -> str:
    return f"begins as the trained model of {name}, whose epochs are not among these"


def _pretrained(epochs: int, layers: int, grown: bool) -> str:
    count = f"{epochs} epoch{'s' * (epochs != 1)}"
    if grown:
        return f"pretraining came before: {count} of the first RBM alone, as which the machine begins; not among these epochs"
    return f"layerwise pretraining came before: {count} for each of {layers} layers, not among these epochs"
