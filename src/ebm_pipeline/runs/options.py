"""Every option of conf/ as a page: commands, groups, choices, defaults, and the comment that stands beside each in the YAML.

`python -m ebm_pipeline.runs.options` prints it; `make docs` puts it into docs/options.md. Reads conf/ as text, so it is quick.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ebm_pipeline.runs.help import COMMANDS, choices, groups
from ebm_pipeline.support.conf import config_folder

PACKAGE_LINE = "# @package _global_"


class Option(NamedTuple):
    """A name as one types it, its default as the file has it, and what the file says of it."""

    name: str
    default: str
    comment: str


def page(conf: Path) -> str:
    """The commands with their own options, then every group with its choices and theirs; headings from ##."""
    texts = {name: (conf / f"{name}.yaml").read_text(encoding="utf-8") for name in COMMANDS}
    commands = [_command(name, text, conf) for name, text in texts.items()]
    places = {group: package for text in texts.values() for group, _, package in groups(text, conf)}
    known = sorted(path.parent.relative_to(conf).as_posix() for path in conf.rglob("*.yaml") if path.parent != conf)
    shown = {f"{group}/{name}".rpartition("/")[0] for group in known for name in choices(group, conf) if "/" in name}
    ordered = [group for group in dict.fromkeys([*places, *known]) if group not in shown]
    return "\n\n".join([*commands, *(_group(group, places.get(group, group), conf) for group in ordered)]) + "\n"


def _command(name: str, text: str, conf: Path) -> str:
    parts = [f"## ebm-{name}", f"`ebm-{name}` {_linked(COMMANDS[name].sentence)}"]
    found = list(groups(text, conf))
    if found:
        said = _comments_of_defaults(text)
        rows = [(f"`{group}`", f"`{chosen}`" if chosen else "", said.get(group, "")) for group, chosen, _ in found]
        parts.append(_table(("group", "default", ""), rows))
    parts.append(_options_table(_options(text, without=("hydra",))))
    return "\n\n".join(part for part in parts if part)


def _comments_of_defaults(text: str) -> dict[str, str]:
    lines = re.findall(r"^  - (?:override /)?([a-z/]+)(?:@\S+)?: \S+ +# (.*)$", text, re.MULTILINE)
    return {group: _linked(comment) for group, comment in lines}


def _group(group: str, place: str, conf: Path) -> str:
    parts = [f"## {group}", f"`{group}=...`: {', '.join(f'`{name}`' for name in choices(group, conf))}."]
    return "\n\n".join([*parts, *(_choice(group, name, place, conf) for name in choices(group, conf))])


def _choice(group: str, name: str, place: str, conf: Path) -> str:
    text = (conf / group / f"{name}.yaml").read_text(encoding="utf-8")
    prefix = "" if PACKAGE_LINE in text else f"{place}."
    target = re.search(r"^_target_: (\S+)(?: +# (.*))?$", text, re.MULTILINE)
    made = f"Makes `{target[1]}`{f': {_linked(target[2])}' if target[2] else ''}." if target else ""
    parts = [f"### {group}={name}", " ".join(part for part in [_head(text), *_brings(group, text), made] if part)]
    return "\n\n".join(part for part in [*parts, _options_table(_options(text, prefix))] if part)


def _head(text: str) -> str:
    """The comment at the beginning of a file."""
    lines = text.removeprefix(f"{PACKAGE_LINE}\n").splitlines()
    end = next((index for index, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return _sentence(" ".join(line.lstrip("# ") for line in lines[:end]))


def _brings(group: str, text: str) -> Iterator[str]:
    """What the defaults of a choice set beside its own options, a sentence each."""
    said = _comments_of_defaults(text)
    for entry in (yaml.safe_load(text) or {}).get("defaults", ()):
        if isinstance(entry, str):
            if entry != "_self_":
                yield f"What it does not set is as in `{group}={entry.removeprefix(f'/{group}/')}`."
            continue
        for key, value in entry.items():
            name, _, package = str(key).removeprefix("override ").partition("@")
            own = name.removeprefix("/") if name.startswith("/") else f"{group}/{name}"
            if package and str(key).startswith("/"):
                yield f"Fills `{package.removeprefix('_global_.')}` in by `{own}={value}`."
            else:
                yield f"Brings `{own}={value}`{f' ({said[own]})' if own in said else ''}."


# ---------------------------------------------------------------------------------------------- the options of one file


def _options(text: str, prefix: str = "", without: tuple[str, ...] = ()) -> list[Option]:
    node = yaml.compose(text, yaml.SafeLoader)
    return [] if node is None else list(_of_mapping(node, prefix, text.splitlines(), ("defaults", *without)))


def _of_mapping(node: Any, prefix: str, lines: list[str], without: tuple[str, ...] = ()) -> Iterator[Option]:
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        at_the_root = key.start_mark.column == 0
        if key.value in without or (key.value.startswith("_") and (at_the_root or key.value != "_target_")):
            continue
        yield from _of_value(name, key, value, lines)


def _of_value(name: str, key: Any, value: Any, lines: list[str]) -> Iterator[Option]:
    if isinstance(value, yaml.ScalarNode) or value.flow_style:
        comment = _beside(value.end_mark, lines, before=key.start_mark.line)
        yield Option(name, _source(value, lines), comment)
        return
    comment = _beside(key.end_mark, lines, before=key.start_mark.line)
    if isinstance(value, yaml.MappingNode):
        if comment:
            yield Option(name, "", comment)
        yield from _of_mapping(value, f"{name}.", lines)
    elif all(isinstance(item, yaml.ScalarNode) for item in value.value):
        yield Option(name, f"[{', '.join(item.value for item in value.value)}]", comment)
    else:
        if comment:
            yield Option(name, "", comment)
        for index, item in enumerate(value.value):
            yield from _of_mapping(item, f"{name}.{index}.", lines)


def _source(node: Any, lines: list[str]) -> str:
    start, end = node.start_mark, node.end_mark
    return lines[start.line][start.column : end.column] if start.line == end.line and lines else ""


def _beside(mark: Any, lines: list[str], before: int) -> str:
    """The comment behind a value, with the lines that go on with it (they begin with a small letter), and that above its key."""
    rest = re.match(r":?\s+#\s*(.*)", lines[mark.line][mark.column :]) if mark.line < len(lines) else None
    found = [rest[1]] if rest else []
    following = mark.line + 1
    while found and following < len(lines) and (more := re.match(r"\s*# ([a-z].*)", lines[following])):
        found.append(more[1])
        following += 1
    return " ".join([*_above(before, lines), *found])


def _above(line: int, lines: list[str]) -> list[str]:
    """Comments on lines of their own above a key, unless they go on with the option before or stand at the file's head."""
    start = line
    while start > 0 and lines[start - 1].lstrip().startswith("#"):
        start -= 1
    while start < line and re.match(r"\s*# [a-z]", lines[start]):
        start += 1
    return [text.strip("# ") for text in lines[start:line]] if start > 0 else []


# ---------------------------------------------------------------------------------------------- Markdown


def _options_table(options: list[Option]) -> str:
    rows = [(f"`{name}`", f"`{default}`" if default else "", _linked(text)) for name, default, text in options]
    return _table(("option", "default", ""), rows) if rows else ""


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *(tuple(cell.replace("|", "\\|") for cell in row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _linked(text: str) -> str:
    """Pages that a comment names, as links."""
    return re.sub(r"docs/([a-z-]+\.md)", r"[\1](\1)", text)


def _sentence(text: str) -> str:
    """A comment that ends with a full stop."""
    text = _linked(text.strip())
    return text and f"{text.removesuffix(':').removesuffix('.')}."


if __name__ == "__main__":
    print(page(config_folder()), end="")
