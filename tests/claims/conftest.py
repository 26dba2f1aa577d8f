"""What the tests of claims share."""

from pathlib import Path

import pytest


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A circuit of one's own: a folder with one claim, and a model trained for five steps."""
    from mechinterp.claims import ship
    from mechinterp.tasks import Induction
    from mechinterp.training import train

    task = Induction(vocab=8, seq_len=8, segment=2, repeats=2)
    sizes = dict(n_layers=1, n_heads=2, d_model=8, steps=5, log_checkpoints=2, linear_checkpoints=2)
    run = train(task, seed=0, out=tmp_path / "run", **sizes)
    folder = tmp_path / "tiny"
    ship(run, folder, "small", steps=(0,))
    (folder / "claims.toml").write_text(
        'about = "a"\nmain = "small"\n[models]\nsmall = "s"\n[circuit]\nedges = ["input->logits"]\n'
        '[[claims]]\nid = "loss"\nsentence = "s"\npurpose = "mechanism"\nmodel = "small"\nmeasure = "loss"\n'
        'select = { where = { group = "repeat" } }\ncompare = "between"\nvalue = 0\nhigh = 9\n'
        '[[claims]]\nid = "null"\nsentence = "s"\npurpose = "control"\nmodel = "small"\n'
        'step = "untrained"\nmeasure = "loss"\n'
        'select = { where = { group = "repeat" } }\ncompare = ">="\nvalue = 0\n'
        '[[claims]]\nid = "scale"\nsentence = "s"\npurpose = "mechanism"\nmodel = "small"\nmeasure = "loss"\n'
        'compare = ">="\nvalue = 0\nnot_testable = "needs a large model"\n'
    )
    return folder
