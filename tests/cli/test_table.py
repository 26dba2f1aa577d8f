"""Help lists every setting without importing torch: the table it reads must be what the settings are."""

import pytest
from typer.exceptions import TyperException

from mechinterp.cli import run, table
from mechinterp.cli.flags import take


def test_the_table_is_the_settings():
    assert table.load() == table.describe(), "settings have changed: run `python -m mechinterp.cli.table`"


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
