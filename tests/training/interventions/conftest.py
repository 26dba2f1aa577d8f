"""One intervention of each kind, for the tiny run of four steps."""

import pytest


@pytest.fixture(scope="session")
def kinds(tiny_run) -> dict[str, list[dict]]:
    """Name -> interventions, beginning and ending at other steps than those of checkpoints (0, 2 and 4)."""
    role = {"role": "previous_token"}
    return {
        "pattern": [dict(kind="pattern", heads="L0.H1", to="previous-token", strength=0.5, start=1)],
        "pattern by role": [dict(kind="pattern", heads=role, to="induction", start=1)],
        "disallow": [dict(kind="disallow", heads="L0", keys="itself", stop=3)],
        "scale": [dict(kind="scale", site="L0.H0.z", factor=0.5, start=1, stop=3)],
        "clamp": [dict(kind="clamp", site="L0.resid_post", to="batch-mean", start=1)],
        "input": [dict(kind="input", heads="L0", fork="k", to="previous-token")],
        "copy": [dict(kind="copy", heads="L0.H0", start=3)],
        "keep": [dict(kind="keep", heads="L0.H0", fork="q", start=1)],
        "freeze": [dict(kind="freeze", part="L0.H1", start=1, stop=4)],
        "freeze by role": [dict(kind="freeze", part="head", heads=role, start=1)],
        "reinitialise": [dict(kind="reinitialise", part="unembed", start=3)],
        "transplant": [dict(kind="transplant", part="L0.attn", run=str(tiny_run.path), step=2, start=1)],
        "change": [dict(kind="change", task={"segment": 3}, training={"lr": 0.1}, start=1, stop=3)],
        # At a checkpoint: begun again from there, it would keep what was drawn, and not what was before.
        "in order": [
            dict(kind="keep", heads="L0", fork="k", start=2),
            dict(kind="reinitialise", part="L0", start=2),
        ],
        "several": [
            dict(kind="reinitialise", part="L0.H0", start=1),
            dict(kind="keep", heads=role, fork="v", start=3),
            dict(kind="freeze", part="L0.H0", start=1),
            dict(kind="change", training={"batch_size": 3, "data_seed": 5}, start=3),
        ],
    }


NAMES = (
    *("pattern", "pattern by role", "disallow", "scale", "clamp", "input", "copy", "keep", "freeze", "freeze by role"),
    *("reinitialise", "transplant", "change", "in order", "several"),
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `kind` runs once for each."""
    if "kind" in metafunc.fixturenames:
        metafunc.parametrize("kind", NAMES)
