"""The page about the command line has every verb, and only commands that exist."""

import inspect
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

import mechinterp as mi
from mechinterp.cli.app import VERBS, commands

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "nouns").glob("*.md"))]
HEAVY = {"torch", "transformer_lens", "transformers", "pandas", "xarray", "sklearn", "plotly"}


def examples(text: str) -> list[list[str]]:
    return [shlex.split(line)[1:] for line in re.findall(r"^\$ (mechinterp .*?)(?:  +#.*)?$", text, re.MULTILINE)]


def test_every_verb_has_an_example():
    assert list(dict.fromkeys(words[0] for words in examples(PAGE))) == list(VERBS)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_the_examples_of_a_page_are_commands(path: Path):
    """The parser accepts every word of them; nothing runs."""
    if path.stem == "your-own-task":  # its commands are run
        return
    group = get_command(commands())
    for verb, *words in examples(path.read_text(encoding="utf-8")):
        with group.make_context("mechinterp", [verb], resilient_parsing=True) as top:
            command = group.get_command(top, verb)
            assert command is not None, verb
            command.make_context(verb, list(words), parent=top)


def test_every_public_function_has_a_command_or_none_on_purpose():
    functions = {name for name in mi.__all__ if inspect.isfunction(getattr(mi, name))}
    rows = dict(re.findall(r"^\| `mi\.(\w+)` \| (.*) \|$", PAGE, re.MULTILINE))
    assert set(rows) == functions
    for name, command in rows.items():
        verb = re.match(r"`mechinterp (\w+)", command)
        assert (verb and verb[1] in VERBS) or command == "in Python only", name


def test_a_verb_of_the_api_is_a_verb_of_the_command_line():
    """One name for one thing: where both have it, they call it the same."""
    functions = {name for name in mi.__all__ if inspect.isfunction(getattr(mi, name))}
    assert set(VERBS) - functions == {"demo", "bench", "list", "patch", "estimate"}
    assert all({f"{verb}_nodes", f"{verb}_edges"} <= functions for verb in ("patch", "estimate"))


def test_the_help_of_every_verb_is_light():
    code = (
        "import sys\nfrom mechinterp.cli import run\nfrom mechinterp.cli.app import VERBS\n"
        "assert all(run([verb, '--help']) == 0 for verb in VERBS)\nprint('LOADED', *sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert set(loaded.split("LOADED", 1)[1].split()) & HEAVY == set()
