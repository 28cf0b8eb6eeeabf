"""The pages: every relative link and anchor leads somewhere, every page is in the navigation; options and their page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import ebm_pipeline
from ebm_pipeline.runs import options

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
CONF = ROOT / "conf"
OF_THE_ROOT = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
GENERATED = ["notebook.md"]  # of docs/study.ipynb
PAGES = [*(ROOT / name for name in OF_THE_ROOT.values()), *sorted(DOCS.rglob("*.md"))]
CONFIGS = sorted(CONF.rglob("*.yaml"))


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def anchors(path: Path) -> set[str]:
    """What a page's headings are called in a link: lower case, without punctuation, blanks as hyphens."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=shown)
def test_every_link_leads_somewhere(path: Path) -> None:
    text = without_code(path.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"<(?:img|a)[^>]+(?:src|href)=\"([^\"]+)\"", text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), f"{shown(path)} links to {link}: there is no such file"
        assert not anchor or anchor in anchors(target), f"{shown(path)} links to {link}: no heading of that name"


def in_navigation(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    else:
        for inner in node.values() if isinstance(node, dict) else node:
            yield from in_navigation(inner)


def test_every_page_is_in_the_navigation_once() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    there = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
    assert sorted(in_navigation(site["nav"])) == sorted([*OF_THE_ROOT, *GENERATED, *there])


def test_the_reference_has_the_python_interface() -> None:
    """That what it names exists is seen by `make docs`."""
    named = re.findall(r"^::: ebm_pipeline\.(\S+)", (DOCS / "reference" / "interface.md").read_text(), re.MULTILINE)
    assert set(ebm_pipeline.__all__) <= set(named)


# ---------------------------------------------------------------------------------------------- options


def leaves(node: Any, prefix: str = "") -> Iterator[str]:
    """Dotted names of what a file sets, without what is Hydra's or says how the configuration is composed."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            if key not in ("defaults", "hydra") and not key.startswith("_"):
                yield from leaves(value, f"{prefix}.{key}")
    elif isinstance(node, list) and node and isinstance(node[0], dict):
        for index, item in enumerate(node):
            yield from leaves(item, f"{prefix}.{index}")
    else:
        yield prefix.removeprefix(".")


@pytest.fixture(scope="module")
def page() -> str:
    return options.page(CONF)


@pytest.mark.parametrize("path", CONFIGS, ids=shown)
def test_the_options_page_has_every_option_with_its_comment(path: Path, page: str) -> None:
    name = path.relative_to(CONF).with_suffix("").as_posix()
    group, _, choice = name.rpartition("/")
    if group == "experiment/table":  # typed as experiment=table/...
        group, choice = "experiment", f"table/{choice}"
    part = page.split(f"\n### {group}={choice}\n" if group else f"## ebm-{name}\n")[1]
    part = re.split(r"^##", part, maxsplit=1, flags=re.MULTILINE)[0]
    text = path.read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `([^`]+)`", part, re.MULTILINE))
    for leaf in leaves(yaml.safe_load(text)):
        assert any(option == leaf or option.endswith(f".{leaf}") for option in named), leaf
    said = re.sub(r"\[([a-z-]+\.md)\]\(\1\)", r"docs/\1", part).replace("\\|", "|")
    own = text if group else text[text.index("\n") :].split("\nhydra:")[0]  # a command's first line is in its --help
    for comment in re.findall(r"(?:^|\s)# (.*)$", own.replace(f"{options.PACKAGE_LINE}\n", ""), re.MULTILINE):
        assert comment.strip().removesuffix(".").removesuffix(":") in said, comment


def test_the_options_page_has_defaults_as_the_files_have_them(page: str) -> None:
    assert "| `training.epochs` | `20` |" in page
    assert "| `model.penalties.0.strength` | `0.001` |" in page
    assert "| `likelihood.temperatures` | `10000` | and again with half as many |" in page  # placed by card@likelihood
    assert "| `data.transform.threshold` | `0.5` | a pixel is 1 where its grey level, 0 to 1, is above this |" in page
    assert "Brings `data/transform=spin`." in page.split("### model=ising")[1].split("###")[0]


# ---------------------------------------------------------------------------------------------- files beside the pages


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == ebm_pipeline.__version__
    assert {"cff-version", "message", "title", "authors"} <= set(citation)


def test_pre_commit_is_make_lint() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    code = re.findall(r"^CODE := (.*)$", makefile, re.MULTILINE)[0]
    lint = re.findall(r"^lint:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)[0]
    steps = [line.strip().replace("$(BIN)", ".venv/bin").replace("$(CODE)", code) for line in lint.splitlines()]
    assert [hook["entry"] for hook in hooks] == steps
