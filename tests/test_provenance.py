"""What a run was made with."""

from __future__ import annotations

import re
import subprocess
from importlib.metadata import version
from pathlib import Path

from ebm_pipeline.tracking.provenance import code_version, hardware, packages


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
    done = subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_commit_and_whether_the_code_differs_from_it(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    assert code_version(package) == {}
    git(tmp_path, "init", "-q")
    (package / "code.py").write_text("a = 1")
    assert code_version(package) == {}  # installed in a repository that does not know it
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    expected = {"mlflow.source.git.commit": git(tmp_path, "rev-parse", "HEAD"), "ebm.code.dirty": "false"}
    assert code_version(package) == expected
    (package / "code.py").write_text("a = 2")
    assert code_version(package) == expected | {"ebm.code.dirty": "true"}


def test_packages_are_what_pip_takes() -> None:
    lines = packages().splitlines()
    assert f"torch=={version('torch')}" in lines
    assert lines == sorted(set(lines), key=str.lower)


def test_the_hardware_is_named() -> None:
    found = hardware()
    assert re.search(r", \d+ cores; ", found["ebm.hardware"])
    assert f"torch {version('torch')}" in found["ebm.versions"]
    assert all(found.values())
