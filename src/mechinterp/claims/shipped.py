"""Circuits that ship: folders of data, opened from the installed package, from the repository, or from anywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from mechinterp.claims.schema import Claim, read_claims
from mechinterp.claims.subjects import Subject
from mechinterp.core import Circuit, ConfigError, MechinterpError, RunError, explain, suggest
from mechinterp.models import Transformer
from mechinterp.tasks import Task, from_dict
from mechinterp.timeline import Memory
from mechinterp.training import Run, TrainConfig
from mechinterp.training.record import RunRecord
from mechinterp.training.run import build_model
from mechinterp.training.tensors import read_tensors, write_tensors


@dataclass(frozen=True, eq=False)
class LoadedCircuit:
    """A shipped circuit, opened.

    Args:
        name: The folder's name.
        path: The folder.
        about: The circuit in one sentence.
        main: Which of the models the circuit lies in.
        circuit: Its edges.
        claims: What is claimed.
        seeds: How many models of each kind confirm them.
        models: Model name -> the shipped model and its shipped history.
        records: Model name -> settings of its training.
        readme: The evidence in words.
    """

    name: str
    path: Path
    about: str
    main: str
    circuit: Circuit
    claims: tuple[Claim, ...]
    seeds: int
    models: Mapping[str, Subject]
    records: Mapping[str, RunRecord]
    readme: str

    @property
    def model(self) -> Transformer:
        """The trained model that the circuit lies in."""
        return self.models[self.main].final

    @property
    def task(self) -> Task:
        """What that model was trained on."""
        return self.models[self.main].task


def load_circuit(name: str | Path) -> LoadedCircuit:
    """Open a circuit that ships with the package, or a folder of your own that is laid out like one.

    Args:
        name: One of `circuit_names()`, or the path of a folder.

    Raises:
        ConfigError: If there is no such circuit, or its claims are not what they should be.
        RunError: If its weights are missing, damaged or do not fit.

    >>> circuit = load_circuit("induction")
    >>> circuit.task.name, circuit.model.config.n_layers
    ('induction', 2)
    """
    path = Path(name)
    if not (path / "claims.toml").is_file():
        if path.is_dir():
            raise ConfigError(f"{path} has no claims.toml: a circuit's folder holds one beside its weights")
        if str(name) not in circuit_names():
            raise ConfigError(f"no circuit '{name}'.{suggest(str(name), circuit_names())}")
        path = circuits_folder() / str(name)
    file = read_claims(path / "claims.toml")
    edges = [str(edge) for edge in Circuit.from_dict(file.circuit)]
    claims = tuple(_with_circuit(claim, edges) for claim in file.claims)
    records = {model: _record(path / "weights" / f"{model}.json") for model in file.models}
    models = {model: _subject(path / "weights", model, record) for model, record in records.items()}
    readme = path / "README.md"
    return LoadedCircuit(
        name=path.resolve().name,
        path=path,
        about=file.about,
        main=file.main,
        circuit=Circuit.from_dict(file.circuit),
        claims=claims,
        seeds=file.seeds,
        models=models,
        records=records,
        readme=readme.read_text(encoding="utf-8") if readme.is_file() else "",
    )


def circuit_names() -> list[str]:
    """Names of the circuits that ship with the package."""
    return sorted(path.parent.name for path in circuits_folder().glob("*/claims.toml"))


def circuits_folder() -> Path:
    """Where they are: in the installed package, or beside `src` in the repository."""
    package = Path(__file__).parents[1]
    inside = package / "circuits"
    return inside if inside.is_dir() else package.parents[1] / "circuits"


def ship(run: Run, folder: str | Path, model: str, steps: tuple[int, ...] = (), half: bool = False) -> list[Path]:
    """Write a Run's model into a circuit's folder, as `load_circuit` reads it.

    Args:
        run: A Run that `train` wrote.
        folder: The circuit's folder.
        model: What the model is called there.
        steps: Earlier checkpoints to ship beside the last one.
        half: Round weights to half precision (to about 1 part in 2,000), for files half as large.

    Returns:
        The files written.

    Raises:
        RunError: If the Run lacks a step, or its model is not ours.
    """
    if run.config.model is None:
        raise RunError(f"{run.path} holds a model that is not ours: only a Transformer can be shipped")
    where = Path(folder) / "weights"
    where.mkdir(parents=True, exist_ok=True)
    for old in where.glob(f"{model}-[0-9]*.safetensors"):
        old.unlink()  # else an older, longer Run's last step would be taken for this one's
    settings = where / f"{model}.json"
    settings.write_text(json.dumps(run.config.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")
    written = [settings]
    for step in sorted({*steps, run.steps[-1]}):
        written.append(where / f"{model}-{step:06d}.safetensors")
        weights = {name: value.half() if half else value for name, value in run.weights(step).items()}
        write_tensors(written[-1], weights, {"kind": "checkpoint", "step": step})
    return written


def _with_circuit(claim: Claim, edges: list[str]) -> Claim:
    """A claim in whose parameters `{circuit}` has become the list of the shipped circuit's edges."""

    def filled(params: Mapping[str, object]) -> dict[str, object]:
        return {name: edges if value == "{circuit}" else value for name, value in params.items()}

    claim = claim.change(params=filled(claim.params))
    params = (claim.against or {}).get("params")
    return (
        claim.change(against={**(claim.against or {}), "params": filled(params)})
        if isinstance(params, Mapping)
        else claim
    )


def _record(path: Path) -> RunRecord:
    try:
        return RunRecord.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    except ValidationError as error:
        raise RunError(f"{path}: {explain(error, RunRecord.model_fields)}") from None
    except (MechinterpError, ValueError) as error:
        raise RunError(f"{path} does not describe a model: {error}") from error


def _subject(weights: Path, name: str, record: RunRecord) -> Subject:
    files = {int(path.stem.rpartition("-")[2]): path for path in weights.glob(f"{name}-[0-9]*.safetensors")}
    if not files or record.model is None or record.task is None or record.seed is None:
        raise RunError(f"{weights} has no weights of '{name}', or {name}.json lacks task, model or seed")
    config, task = record.model, from_dict(record.task)
    last = max(files)
    if isinstance(record.training, TrainConfig) and last != record.training.steps:
        raise RunError(f"{weights}: the last checkpoint of '{name}' is of step {record.training.steps}, not {last}")

    def load(path: Path) -> Transformer:
        return build_model(config, read_tensors(path)[0], str(path))

    run = Run.from_checkpoints(files, load, task)
    # The folder may lie in the installed package: measurements of its checkpoints stay in memory.
    return Subject(task, record.seed, config, load(files[last]), run, Memory())


def as_subject(model: object, like: Subject | None = None) -> Subject:
    """A model to check: a Subject, a Run, or in the place of a shipped one a bare Transformer."""
    if isinstance(model, Subject):
        return model
    if isinstance(model, Run):
        return Subject.of(model)
    if isinstance(model, Transformer) and like is not None:
        return Subject(like.task, like.seed, model.config, model)
    raise ConfigError(f"claims are checked on a Run or a Transformer, not on this {type(model).__name__}")
