"""Help lists every setting without importing torch: the table it reads must be what the settings are."""

import inspect

import pytest
from typer.exceptions import TyperException

import mechinterp as mi
from mechinterp.cli import run, table
from mechinterp.cli.flags import take
from mechinterp.cli.options import Chosen, as_command
from mechinterp.cli.output import CommandOutput
from mechinterp.core import OPTIONS, ConfigError


def test_the_table_is_the_settings():
    assert table.load() == table.describe(), "settings have changed: run `python -m mechinterp.cli.table`"


def test_the_table_is_the_shared_options():
    """Also fails where a signature of the API has another default than the help text shows."""
    assert table.load_options() == table.describe_options(), "run `python -m mechinterp.cli.table`"
    for verb, rows in table.load_options().items():
        for row in rows:
            option = OPTIONS[row["name"]]
            assert (row["help"], tuple(row.get("choices", ()))) == (option.help, option.words), verb


def test_help_shows_every_shared_option_with_its_default(capsys: pytest.CaptureFixture[str]):
    for verb, rows in table.load_options().items():
        assert run([verb, "--help"]) == 0
        text = " ".join(capsys.readouterr().out.split())
        for row in rows:
            assert f"--{row['name'].replace('_', '-')} " in text and table.about(row) in text, (verb, row["name"])


def test_an_option_that_is_not_given_is_not_passed_on():
    """So the default that counts is the one of the API."""

    given = []

    def patch(chosen: Chosen) -> CommandOutput:
        given.append(chosen.options)
        return CommandOutput({}, "", [])

    command = as_command("patch", patch)
    nothing = dict.fromkeys(row["name"] for row in table.load_options()["patch"])
    assert command(run="x", as_json=True, **nothing) == 0
    assert command(run="x", as_json=True, **nothing | {"at": "role", "seed": 0}) == 0
    assert given == [{}, {"at": "role", "seed": 0}]
    with pytest.raises(ConfigError, match="no direction 'up'"):
        command(run="x", as_json=True, **nothing | {"direction": "up"})


@pytest.mark.parametrize(
    ("verb", "flag", "function"),
    [
        ("estimate", "method", "estimate_edges"),
        ("estimate", "steps", "estimate_edges"),
    ],
)
def test_the_help_of_other_options_shows_their_default(
    verb: str, flag: str, function: str, capsys: pytest.CaptureFixture[str]
):
    default = inspect.signature(getattr(mi, function)).parameters[flag].default
    assert run([verb, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert text.split(f"--{flag} ", 1)[1].split("--")[0].strip().endswith(f"({default}).")


def test_no_name_means_two_things():
    groups = table.load()
    shared = {row["name"] for row in groups["model"]} & {row["name"] for row in groups["training"]}
    for group, rows in groups.items():
        if group.startswith("task "):
            names = {row["name"] for row in rows}
            shared |= names & {row["name"] for other in ("model", "training") for row in groups[other]}
    assert shared == set()


def test_every_setting_has_its_flag_in_help(capsys: pytest.CaptureFixture[str]):
    assert run(["train", "--help"]) == 0
    text = capsys.readouterr().out
    words = {word.rstrip(",") for word in text.split()}
    for rows in table.load().values():
        for row in rows:
            name = {"n_layers": "layers", "n_heads": "heads"}.get(row["name"], row["name"])
            assert f"--{name.replace('_', '-')}" in words
            assert row["help"].split()[0] in text, f"setting {row['name']} has no description"


def test_flags_are_taken_out_of_the_command_line():
    words = ["--n-layers", "1", "induction", "--no-causal", "--lr=-3", "--replace", "--out", "x", "--max-gap", "none"]
    found, rest = take(words, own={"--out"})
    assert found == {"n_layers": "1", "causal": False, "lr": "-3", "replace": True, "max_gap": "none"}
    assert rest == ["induction", "--out", "x"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--layres", "2"], "no option '--layres'. Did you mean --layers"),
        (["--layers"], "option '--layers' needs a value"),
        (["--layers", "--heads", "2"], "option '--layers' needs a value"),
        (["--causal=false"], "write --causal or --no-causal"),
        (["--layers", "1", "--n-layers", "2"], "given twice: 1 and 2"),
    ],
)
def test_flags_that_do_not_fit(words: list[str], says: str):
    with pytest.raises(TyperException, match=says):
        take(words, own=set())
