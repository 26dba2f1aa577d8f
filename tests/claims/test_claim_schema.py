"""Claims as data: what a file may say, and what is refused."""

from pathlib import Path

import pytest

from mechinterp.claims import Claim, read_claims
from mechinterp.core import ConfigError

FILE = """
about = "a circuit"
main = "two"
[models]
two = "two layers"
[circuit]
edges = ["input->L0.H0.v", "L0.H0->logits"]
[[claims]]
id = "low-loss"
sentence = "it learns"
purpose = "mechanism"
source = "own"
model = "two"
measure = "loss"
select = { where = { group = "repeat" } }
compare = "<="
value = 0.5
weaker = 1.0
"""


def claim(**settings) -> Claim:
    given = dict(id="a", sentence="s", purpose="mechanism", model="two", measure="loss", compare=">=", value=0.5)
    return Claim(**{**given, **settings})


def test_a_file_is_read(tmp_path: Path):
    path = tmp_path / "claims.toml"
    path.write_text(FILE)
    found = read_claims(path)
    assert [one.tolerance for one in found.claims] == ["<= 0.5 (weaker: <= 1)"]
    assert found.claims[0].select.where == {"group": "repeat"}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("value = 0.5", "valeu = 0.5", "claim low-loss: .*no setting 'valeu'. Did you mean 'value'"),
        ('compare = "<="', 'compare = "<"', "claim low-loss: Claim: compare='<'"),
        ("weaker = 1.0", "weaker = 0.1", "weaker=0.1 is stricter than <= 0.5"),
        ('model = "two"', 'model = "three"', r"no model 'three' in \[models\]"),
        ('id = "low-loss"', 'id = "Low loss"', "claim Low loss: Claim: id='Low loss'"),
        ("L0.H0->logits", "L0.H0=>logits", "no edge 'L0.H0=>logits'"),
        ('purpose = "mechanism"', "", "claim low-loss: Claim: setting 'purpose' is missing"),
        ('purpose = "mechanism"', 'purpose = "fun"', "claim low-loss: Claim: purpose='fun'"),
        ("about = ", "about ", "is no TOML"),
        ("weaker = 1.0", "against = { modle = 'one' }", "no setting 'modle'"),
    ],
)
def test_a_wrong_file_is_one_clear_error(tmp_path: Path, old: str, new: str, says: str):
    path = tmp_path / "claims.toml"
    assert old in FILE
    path.write_text(FILE.replace(old, new))
    with pytest.raises(ConfigError, match=says) as error:
        read_claims(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_two_claims_of_one_name(tmp_path: Path):
    path = tmp_path / "claims.toml"
    path.write_text(FILE + FILE[FILE.index("[[claims]]") :])
    with pytest.raises(ConfigError, match="two claims are called 'low-loss'"):
        read_claims(path)


PASSAGE = {"chance": 0.0, "best": 1.0}


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (dict(compare=">=", value=0.7), ">= 0.7"),
        (dict(compare="between", value=1, high=2), "1 to 2"),
        (dict(compare="equals", value=0.625, within=0.01), "0.625 ± 0.01"),
        (dict(compare="<=", value=1, weaker=2), "<= 1 (weaker: <= 2)"),
        (dict(compare="after", value=0, against={}, on=["retrained"], passage=PASSAGE), "> 0, p <= .05"),
    ],
)
def test_tolerance_in_one_line(settings: dict, text: str):
    assert claim(**settings).tolerance == text


@pytest.mark.parametrize(
    "settings",
    [
        dict(compare="between"),
        dict(compare="equals"),
        dict(high=1.0),
        dict(within=0.1),
        dict(compare="equals", within=0.1, weaker=0.2),
        dict(select={"reduce": "count"}),
        dict(passage=PASSAGE, against={}),  # shipped checkpoints are too few
        dict(passage=PASSAGE, on=["retrained"]),  # three thresholds and nothing beside
        dict(compare="after", on=["retrained"]),
        dict(compare="after", on=["retrained"], passage=PASSAGE, against={}, weaker=0),
        dict(relative=True),
        dict(purpose="contrast"),  # with what?
        dict(step="untrained"),  # has no mechanism
    ],
)
def test_settings_that_do_not_fit_each_other(settings: dict):
    with pytest.raises(ConfigError):
        claim(**settings)


def test_against_changes_only_what_it_names():
    one = claim(purpose="control", params={"examples": 8}, step="untrained", against={"model": "one"})
    assert one.other is not None
    assert (one.other.model, one.other.step, one.other.params) == ("one", "untrained", {"examples": 8})
