"""README and docs/commands.md: their commands run (shrunk), their Python works on a saved model, what they name exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from ebm_pipeline.cli import config_folder
from ebm_pipeline.runs.train import train

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BOTH = README + (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", BOTH, re.DOTALL)
COMMANDS = [shlex.split(line, comments=True) for block in BLOCKS for line in block.splitlines()]
TRAININGS = [words[1:] for words in COMMANDS if words[0].endswith("ebm-train")]
SHRUNK = [
    "data=bars_and_stripes", "data.passes_per_epoch=1", "training.epochs=1", "threads=1", "evaluation.fantasy_sweeps=5",
    "tracking.log_model=false", "tracking.system_metrics=false",
]  # fmt: skip
SHORTER = {
    "epochs=50": "epochs=1",
    "temperatures=2000": "temperatures=20, chains=20, sweeps=40",
    '{"temperatures": 2000}': '{"temperatures": 20, "chains": 20, "sweeps": 40}, diagnostics={"chains": 20, "sweeps": 40}',
    "sweeps=1000": "sweeps=40",
}


def is_sweep(words: list[str]) -> bool:
    return any(word == "-m" or word.startswith("sweep=") for word in words)


def test_the_readme_has_its_commands() -> None:
    assert len(TRAININGS) >= 7
    assert ["make", "reproduce"] in COMMANDS
    assert "`make test`" in README
    assert len(README.splitlines()) < 100


@pytest.mark.parametrize("words", TRAININGS, ids=" ".join)
def test_the_trainings_compose_as_written(words: list[str]) -> None:
    overrides = [word.split(",")[0] for word in words if word != "-m"]
    with initialize_config_dir(config_folder(), version_base="1.3"):
        config = compose("train", overrides=overrides)
    GlobalHydra.instance().clear()
    OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    for word in overrides:
        key, value = word.split("=")
        if "/" not in key and "." in key and not key.startswith("hydra."):
            expected = None if value == "null" else pytest.approx(float(value))
            assert OmegaConf.select(config, key) == expected


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


SINGLE = [words for words in TRAININGS if not is_sweep(words)]


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(words, id=" ".join(words), marks=pytest.mark.slow if i > 1 else ())
        for i, words in enumerate(SINGLE)
    ],
)
def test_the_trainings_run_shrunk(words: list[str], outputs: Path, tmp_path: Path) -> None:
    own = [word for word in words if not word.startswith(("data=", "training.epochs=", "model.pretraining.epochs="))]
    with initialize_config_dir(config_folder(), version_base="1.3"):
        config = compose("train", overrides=[f"output_root={outputs}", *SHRUNK, *own])
    train(config, tmp_path)
    assert (tmp_path / "model.h5").is_file()


def test_the_python_of_the_readme_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EBM_OUTPUT_DIR", str(tmp_path))
    names: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", BOTH, re.DOTALL):
        for words, fewer in SHORTER.items():
            code = code.replace(words, fewer)
        exec(code, names)
    assert names["verdict"].name in str(names["verdict"])
    assert names["restored"].shape == (1500, 64)
    assert names["fantasies"].shape == names["drawn"].shape == (64, 64)
    assert names["down"].shape == (8, 64)


def test_targets_links_and_choices_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make ([a-z]+)(?:`| +#)", BOTH):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link


def test_the_page_of_options_names_every_choice() -> None:
    page = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    groups = {path.parent for path in (ROOT / "conf").rglob("*.yaml")} - {ROOT / "conf"}
    of_one_choice = {"card", "diagnosis", "verdict", "evaluation", "width"}
    for group in sorted(group for group in groups if group.name not in of_one_choice):
        for path in group.glob("*.yaml"):
            typed = f"{group.name}/{path.stem}" if group.parent.name == "experiment" else path.stem
            assert f"`{typed}`" in page, f"{group.name}={path.stem} is not in docs/options.md"
