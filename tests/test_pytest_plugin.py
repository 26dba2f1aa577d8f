"""The pytest plugin, run as its users run it; and the page of the docs that shows it."""

import re
from pathlib import Path

import pytest

from mechinterp.claims import Claim, ClaimError, assert_claim, load_circuit
from mechinterp.core import ConfigError
from mechinterp.models import ModelConfig, Transformer
from mechinterp.tasks import Induction

PAGE = Path(__file__).parents[1] / "docs" / "testing.md"
HEAD = dict(id="induction-head", sentence="A head looks for copies.", purpose="mechanism", compare=">=", value=0.5)
HEAD |= dict(measure="head_scores", select={"where": {"score": "induction"}, "head_type": "induction"})


@pytest.fixture
def run_tests(pytester: pytest.Pytester):
    """Run pytest in a folder of its own, with the plugin."""

    def run(*arguments: str | Path):
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", *arguments)

    return run


def test_the_ten_lines_of_the_docs(pytester: pytest.Pytester, run_tests):
    (code,) = re.findall(r'```python title="test_my_circuit.py"\n(.*?)```', PAGE.read_text(), re.S)
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    pytester.makepyfile(test_my_circuit=code, test_other=code)
    result = run_tests("--durations=2", "-vv")
    result.assert_outcomes(passed=2)
    slow, quick = (float(seconds) for seconds in re.findall(r"([\d.]+)s call", result.stdout.str()))
    assert quick < slow / 3  # the second test found the first one's run


def test_what_a_failure_says():
    model = Transformer(ModelConfig(n_layers=2, n_heads=2, d_model=16, d_vocab=16, n_ctx=24))
    with pytest.raises(ClaimError) as error:
        assert_claim(Claim(**HEAD), model, task=Induction(vocab=16, seq_len=24, segment=6))
    lines = str(error.value).splitlines()
    assert lines[0] == "induction-head: not reproduced"
    assert lines[1:4] == ["  claim     A head looks for copies.", "  source    own", "  expected  >= 0.5"]
    assert re.fullmatch(r"  measured  0\.\d+ \[0\.\d+, 0\.\d+\], 95% over examples; seed 0", lines[4])
    place = """  look at   mi.measure("head_scores") of model, {'score': 'induction'}, head type: induction"""
    assert lines[5:] == [place]


def test_a_shipped_claim_on_a_model_put_in_its_place():
    circuit = load_circuit("induction")
    assert assert_claim("induction/one-layer-cannot").verdict == "reproduced"
    with pytest.raises(ClaimError, match="induction/learns-repeats: not reproduced") as error:
        assert_claim("induction/learns-repeats", circuit.models["one-layer"])
    assert str(circuit.path / "README.md") in str(error.value)
    with pytest.raises(ClaimError, match=r"minus +mi.measure\(.loss.\) of two-layer"):
        assert_claim("second-layer-gain", {"two-layer": circuit.models["one-layer"]}, circuit=circuit)


def test_several_seeds_give_an_interval_over_seeds():
    found = assert_claim("induction/untrained-induction", [load_circuit("induction").models["two-layer"]] * 2)
    assert found.seeds == (0, 0) and found.low == found.high == found.measured


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: assert_claim("learns-repeats"), "whose claim"),
        (lambda: assert_claim("induction/learns-repeat"), "Did you mean 'learns-repeats'"),
        (lambda: assert_claim(Claim(**HEAD)), "about 'model': pass it with on="),
        (lambda: assert_claim(Claim(**HEAD), []), "at least one model"),
        (lambda: assert_claim(Claim(**HEAD), 3), "not on this int"),
        (lambda: assert_claim(Claim(**HEAD), load_circuit("induction").model), "pass task="),
        (lambda: assert_claim("induction/learns-repeats", {"two-layr": 3}), "Did you mean 'two-layer'"),
        (lambda: assert_claim("induction/previous-token-head-first"), "pass the Runs"),
    ],
)
def test_what_cannot_be_asserted(call, says: str):
    with pytest.raises(ConfigError, match=says):
        call()


def test_an_order_is_not_asserted_on_too_few_models():
    circuit = load_circuit("induction")
    with pytest.raises(ClaimError, match="not testable at this scale with 2 of the 5 models that an order needs"):
        assert_claim("induction/previous-token-head-first", [circuit.models["two-layer"]] * 2)


def test_a_number_that_a_model_cannot_have_says_why():
    one_layer = load_circuit("induction").models["one-layer"]
    with pytest.raises(ClaimError, match="no number: "):
        assert_claim("induction/k-composition-weights", one_layer)


def test_retrained_tests_wait_until_they_are_asked_for(pytester: pytest.Pytester, run_tests):
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.retrained
        def test_slow():
            pass

        @pytest.mark.shipped
        def test_quick(shipped_circuit):
            assert shipped_circuit("induction") is shipped_circuit("induction")
        """
    )
    run_tests("--strict-markers").assert_outcomes(passed=1, skipped=1)
    run_tests("--strict-markers", "--retrained").assert_outcomes(passed=2)


def test_a_file_of_claims_is_a_file_of_tests(pytester: pytest.Pytester, run_tests):
    circuit = load_circuit("induction")
    folder = pytester.path / "mine"
    folder.mkdir()
    (folder / "weights").symlink_to(circuit.path / "weights")
    text = (circuit.path / "claims.toml").read_text()
    head, *claims = text.split("[[claims]]\n")
    kept = [claim for claim in claims if re.match(r'id = "(learns-repeats|previous-token-head-first)"', claim)]
    wrong = kept[0].replace('"learns-repeats"', '"wrong"').replace("value = 0.5", "value = 0.0001")
    wrong = wrong.replace("weaker = 1.0\n", "")
    (folder / "claims.toml").write_text("[[claims]]\n".join([head, *kept, wrong]))
    result = run_tests("mine/claims.toml")
    result.assert_outcomes(passed=1, failed=1)  # the order in time is not for shipped weights
    result.stdout.fnmatch_lines(["*mine/wrong: not reproduced", "*expected  <= 0.0001"])
    assert "Traceback" not in result.stdout.str()
    run_tests().assert_outcomes()  # nobody asked for it
