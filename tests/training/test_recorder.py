"""Recorder under a loop of one's own: another model, another optimiser, random numbers of its own."""

from pathlib import Path

import pytest
import torch
from torch import nn

from mechinterp.core import ConfigError, RunError, UnsupportedError
from mechinterp.training import Recorder, Run

STEPS = 12


def build() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    gen = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=gen))
    return model


def own_loop(path: Path, stop: int | None = None, make=torch.optim.Adam, rate: float = 0.05, **options) -> nn.Module:
    """Noise is drawn in turn from one generator, so only its restored state continues it."""
    model = build()
    optimizer = make(model.parameters(), lr=rate)
    noise = torch.Generator().manual_seed(1)
    known = dict(generators={"noise": noise}, settings={"rate": rate}, checkpoints=range(0, STEPS + 1, 4))
    with Recorder(path, model, optimizer=optimizer, **{**known, **options}) as rec:
        for step in range(rec.step, STEPS + 1):
            rec(step, weight=model[0].weight[0, 0], half=0.5)
            if step == stop:
                raise ArithmeticError
            if step < STEPS:
                inputs = torch.randn(8, 3, generator=noise)
                optimizer.zero_grad()
                (model(inputs) - inputs.sum(1, keepdim=True)).square().mean().backward()
                optimizer.step()
    return model


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.Adagrad])
def test_another_loop_goes_on_after_an_error(tmp_path: Path, make):
    whole = own_loop(tmp_path / "whole", make=make)
    with pytest.raises(ArithmeticError):
        own_loop(tmp_path / "cut", stop=9, make=make)
    assert Run(tmp_path / "cut").status == "interrupted" and Run(tmp_path / "cut").steps == (0, 4, 8)
    again = own_loop(tmp_path / "cut", make=make, resume=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    whole_run, cut_run = Run(tmp_path / "whole"), Run(tmp_path / "cut")
    assert whole_run.metrics().identical(cut_run.metrics()) and list(whole_run.metrics()) == ["weight", "half"]
    assert [whole_run.weights_hash(step) for step in whole_run.steps] == [
        cut_run.weights_hash(s) for s in cut_run.steps
    ]


def test_weights_of_another_model_need_its_maker(tmp_path: Path):
    model = own_loop(tmp_path / "run")
    run = Run(tmp_path / "run")
    assert (run.config.model, run.config.training, run.config.settings) == (None, None, {"rate": 0.05})
    with pytest.raises(UnsupportedError, match=r"open it as Run\(path, build="):
        run.model()
    built = Run(tmp_path / "run", build=build).model(STEPS)
    assert torch.equal(built[0].weight, model[0].weight)  # pyright: ignore
    with pytest.raises(RunError, match="does not fit the model"):
        Run(tmp_path / "run", build=lambda: nn.Linear(1, 1)).model()


def test_what_does_not_fit_is_refused_and_nothing_changes(tmp_path: Path, content):
    with pytest.raises(ArithmeticError):
        own_loop(tmp_path / "run", stop=5)
    before = content(tmp_path / "run")
    for options, message in [
        (dict(rate=0.1), "settings.rate is 0.05 in the folder and 0.1 now"),
        (dict(generators={}), r"has generators \['noise'\], not \[\]"),
        (dict(optimizer=None), "saved with an optimiser"),
    ]:
        if "optimizer" in options:
            with (
                pytest.raises(RunError, match=message),
                Recorder(tmp_path / "run", build(), settings={"rate": 0.05}, resume=True),
            ):
                pass
        else:
            with pytest.raises(RunError, match=message):
                own_loop(tmp_path / "run", resume=True, **options)
    model = nn.Linear(3, 4)
    weight = model.weight.clone()
    with (
        pytest.raises(RunError, match="do not fit this model"),
        Recorder(tmp_path / "run", model, settings={"rate": 0.05}, resume=True),
    ):
        pass
    assert torch.equal(model.weight, weight) and content(tmp_path / "run") == before


def test_steps_rise(tmp_path: Path):
    with pytest.raises(ConfigError, match="step 1 after step 2; steps rise"), Recorder(tmp_path / "a", build()) as rec:
        rec(2)
        rec(1)
    with pytest.raises(ArithmeticError):
        own_loop(tmp_path / "b", stop=6)
    with pytest.raises(ConfigError, match="goes on at step 4: begin the loop there"):
        own_loop_from_zero(tmp_path / "b")


def own_loop_from_zero(path: Path) -> None:
    model = build()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    options = dict(generators={"noise": torch.Generator()}, settings={"rate": 0.05}, checkpoints=range(0, 13, 4))
    with Recorder(path, model, optimizer=optimizer, resume=True, **options) as rec:
        rec(0)


def test_without_a_schedule_steps_lie_further_and_further_apart(tmp_path: Path):
    with Recorder(tmp_path / "run", build(), log_every=10) as rec:
        for step in range(45):
            rec(step, value=step)
    # The last step is kept too, whatever the schedule.
    assert Run(tmp_path / "run").steps == (*range(9), 10, 11, 13, 16, 19, 23, 27, 32, 38, 44)
    assert Run(tmp_path / "run").metrics()["step"].values.tolist()[:10] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 10]


def test_values_are_read_only_when_written(tmp_path: Path):
    class Costly(float):
        reads = 0

        def __float__(self) -> float:
            Costly.reads += 1
            return 1.0

    with Recorder(tmp_path / "run", build(), checkpoints=[0, 20], log_every=10) as rec:
        for step in range(21):
            rec(step, value=Costly())
    assert Costly.reads == 3


def test_numbers_that_are_none(tmp_path: Path):
    with Recorder(tmp_path / "run", build()) as rec:
        rec(0, loss=float("nan"), other=torch.tensor(float("inf")))
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == '{"step": 0, "loss": null, "other": null}\n'


def test_an_optimiser_that_is_no_plain_data(tmp_path: Path):
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.state[next(model.parameters())]["odd"] = object()
    with (
        pytest.raises(ConfigError, match="state of SGD cannot be written"),
        Recorder(tmp_path / "run", model, optimizer=optimizer) as rec,
    ):
        rec(0)
