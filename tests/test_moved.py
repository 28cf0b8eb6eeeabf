"""Names of earlier versions: whatever a configuration of then names is still there."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from commands import PLAIN, composed
from hydra.utils import get_object

from ebm_pipeline.runs import resume
from ebm_pipeline.runs.configuration import parse_run_config, plain
from ebm_pipeline.runs.moved import MOVED, current_name
from ebm_pipeline.tracking.records import write_run_file

# every `_target_` that conf/ of commit 0251ca8 had
OF_THE_FLAT_PACKAGE = """
ebm_pipeline.data.load ebm_pipeline.data.sources.BarsAndStripes ebm_pipeline.data.sources.Idx
ebm_pipeline.data.sources.digits ebm_pipeline.data.sources.existing ebm_pipeline.data.transforms.Decorrelate
ebm_pipeline.data.transforms.Dequantise ebm_pipeline.data.transforms.Identity ebm_pipeline.data.transforms.Scale
ebm_pipeline.data.transforms.Spin ebm_pipeline.data.transforms.Standardize ebm_pipeline.data.transforms.Stochastic
ebm_pipeline.data.transforms.Threshold ebm_pipeline.evaluation.card.Likelihood
ebm_pipeline.evaluation.diagnostics.Diagnostics ebm_pipeline.evaluation.verdict.Criteria
ebm_pipeline.inference.MeanField ebm_pipeline.initialization.glorot_normal ebm_pipeline.initialization.normal
ebm_pipeline.initialization.pixel_deviations ebm_pipeline.initialization.principal_components
ebm_pipeline.layers.Bernoulli.create ebm_pipeline.layers.Gaussian.create ebm_pipeline.layers.Ising.create
ebm_pipeline.layers.LearnedGaussian.create ebm_pipeline.layers.Mixed.create ebm_pipeline.layers.Potts.create
ebm_pipeline.layers.RectifiedGaussian.create ebm_pipeline.objectives.ContrastiveDivergence
ebm_pipeline.objectives.PersistentContrastiveDivergence ebm_pipeline.objectives.Tap ebm_pipeline.samplers.Gibbs
ebm_pipeline.samplers.GibbsLangevin ebm_pipeline.samplers.ParallelTempering ebm_pipeline.sweeps.SweepCallback
ebm_pipeline.tasks.Classification ebm_pipeline.tasks.Conditional ebm_pipeline.tasks.Denoising
ebm_pipeline.tasks.Fantasies ebm_pipeline.tasks.Features ebm_pipeline.tasks.Inpainting ebm_pipeline.training.L1
ebm_pipeline.training.Model ebm_pipeline.training.Pictures ebm_pipeline.training.Pretraining
ebm_pipeline.training.ProximalL1 ebm_pipeline.training.SparsityTarget ebm_pipeline.training.power_law
"""


@pytest.mark.parametrize("name", OF_THE_FLAT_PACKAGE.split())
def test_what_an_earlier_version_named_is_found(name: str) -> None:
    assert callable(get_object(current_name(name)))
    assert current_name(current_name(name)) == current_name(name)


def test_the_configuration_of_an_earlier_run_is_read_with_the_names_of_today() -> None:
    text = """
data: {_target_: ebm_pipeline.data.load, hidden_units: 4, units: 4}
model: {layers: {visible: {_target_: ebm_pipeline.layers.Bernoulli.create, units: 4}}}
mean_field: {_target_: ebm_pipeline.inference.MeanField}
evaluation: {callbacks: [{_target_: ebm_pipeline.sweeps.SweepCallback}]}
"""
    config = parse_run_config(text, Path("config.yaml"))
    assert config.data == {"_target_": "ebm_pipeline.data.load", "units": 4}
    assert config.model.layers.visible._target_ == "ebm_pipeline.models.layers.Bernoulli.create"
    assert config.mean_field._target_ == "ebm_pipeline.models.inference.MeanField"
    assert config.evaluation.callbacks[0]._target_ == "ebm_pipeline.runs.sweep.SweepCallback"


def test_a_run_that_an_earlier_version_began_is_known_by_its_settings(tmp_path: Path) -> None:
    config = composed(*PLAIN, "hidden_units=5", output_root=tmp_path)
    before = plain(config)
    for name in ("hidden_units", "trust"):
        del before[name]
    for name in ("values", "categories"):
        before["data"].pop(name, None)
    before["data"]["hidden_units"] = 5
    text = yaml.safe_dump(before)
    for old, new in MOVED.items():
        text = text.replace(new, old)
    run, fresh = tmp_path / "runs" / "before", tmp_path / "runs" / "fresh"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(text)
    write_run_file(run, "0" * 32, "sqlite:///none.db", "a digest of then")
    assert resume.folder_of(fresh, resume.digest(config), config) == run
    other = composed(*PLAIN, "hidden_units=5", "optimizer.lr=0.123", output_root=tmp_path)
    assert resume.folder_of(fresh, resume.digest(other), other) is None
