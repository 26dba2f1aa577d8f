"""What comes from outside: one clear line for every fault, and no waiting for a pipe."""

import os
from pathlib import Path

import pytest

from mechinterp.core import Circuit, ConfigError, RunError, Settings, Site, SiteError, read_settings, read_table


class Two(Settings):
    """Two settings."""

    size: int
    name: str = "a"


@pytest.mark.parametrize(
    ("format", "text", "says"),
    [
        ("json", "[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ("json", '{"a": ' * 80 + "1" + "}" * 80, "nested too deeply"),
        ("toml", "a = " + "[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ("json", '{"size": ' + "9" * 5000 + "}", "is damaged: "),
        ("toml", "size = " + "9" * 5000, "is no TOML: "),
        ("toml", "size = " + "9" * 4000, "size is an integer of more than 64 bits"),
        ("json", '{"size": "many"}', "size='many'"),
        ("json", '{"sise": 3, "size": 3}', "no setting 'sise'. Did you mean 'size'?"),
        ("json", '{"self": 3, "size": 3}', "no setting 'self'"),
        ("json", "{}", "setting 'size' is missing"),
        ("json", "[3]", "does not hold names with values"),
        ("json", '{"size": 3', "is damaged: "),
        ("json", "\udcff", "is damaged: "),
    ],
)
def test_each_fault_is_one_clear_line(tmp_path: Path, format, text: str, says: str):
    path = tmp_path / "file"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError) as caught:
        read_settings(path, format, Two, ConfigError)
    line = str(caught.value)
    assert line.startswith(str(path)) and says in line and "\n" not in line and len(line) < 300


def test_what_is_right_is_read(tmp_path: Path):
    path = tmp_path / "file"
    path.write_text("size = 3\nname = 'b'")
    assert read_settings(path, "toml", Two) == Two(size=3, name="b")


@pytest.mark.parametrize("what", ["pipe", "folder", "dangling", "missing"])
def test_only_a_regular_file_is_read(tmp_path: Path, what: str):
    path = tmp_path / "file"
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "dangling":
        path.symlink_to(tmp_path / "nothing")
    with pytest.raises(RunError, match="file cannot be read: ") as caught:
        read_table(path, "json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"edges": 3}', "edges=3"),
        ('{"edges": [3]}', r"edges\.0=3"),
        ('{"edges": [], "inputs": []}', r"inputs=\[\]"),
        ('{"edges": [], "origin": 7}', "origin=7"),
        ('{"edges": ["up->down"]}', "no site of kind 'up'"),
        ('{"edges": ["embed->logits"]}', "does not fit inputs='merged'"),
        ('{"edges": ["L' + "9" * 5000 + '.H0->logits"]}', "no site"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_file_that_holds_no_circuit(tmp_path: Path, text: str, says: str):
    path = tmp_path / "circuit.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says) as caught:
        Circuit.from_file(path)
    assert str(path) in str(caught.value)


def test_digits_of_an_address_are_ascii():
    with pytest.raises(SiteError, match="no site"):
        Site.parse("L\u0661.H0.z")  # ARABIC-INDIC DIGIT ONE
