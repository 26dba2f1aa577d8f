"""Where measurements are kept, one per measure and checkpoint, each with its origin: in files or in memory.

Files are netCDF 3 (`scipy` reads and writes them without another library, in a few milliseconds). They are derived
data: a file of other weights, task, parameters, seed, code or version, or one that cannot be read, is no error; the
measurement is repeated and the file replaced, and nothing is lost.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
import xarray as xr

from mechinterp.core import RunLike
from mechinterp.core.digest import digest
from mechinterp.models import ModelConfig
from mechinterp.training import Run
from mechinterp.training.files import locked, make_folder, write_atomic

Origin = Mapping[str, str]

LAYOUT = "1"
"""Part of a file's origin; a change of the files' layout raises it."""


_FURTHER = "/coordinates"
"""Among a file's notes; no variable of a netCDF file can have this name."""


def summarise(values: xr.DataArray, keep_examples: bool) -> xr.Dataset:
    """`mean`, `se` and `n` over examples, and `values` with single examples on request.

    A measure without an `example` dimension is its own mean: `se` is NaN and `n` is 1. Values that are not finite
    (a role absent from an example) are left out of mean, error and count. Dimensions without labels (layers, heads) are
    numbered, so that measures that number them and measures that do not fit together.
    """
    single = "example" in values.dims
    kept = [str(dim) for dim in values.dims if dim != "example"]
    coords = {dim: values[dim].values if dim in values.coords else np.arange(values.sizes[dim]) for dim in kept}
    # Plain arrays: this runs for every measure at every checkpoint, and labels would cost more than most measures.
    data = values.values.astype(float)
    data = np.where(np.isfinite(data), data, np.nan)
    rows = np.moveaxis(data, values.dims.index("example"), -1) if single else data[..., None]
    n = np.isfinite(rows).sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.nansum(rows, -1) / n
        se = np.sqrt(np.nansum((rows - mean[..., None]) ** 2, -1) / (n - 1) / n)
    parts = {
        "mean": (kept, np.where(n > 0, mean, np.nan)),
        "se": (kept, np.where(n > 1, se, np.nan) if single else np.full(n.shape, np.nan)),
        "n": (kept, n.astype("int32")),
    }
    summary = xr.Dataset(parts, coords=coords, attrs=dict(values.attrs))
    if keep_examples and single:
        bare = values.drop_vars("example", errors="ignore").reset_coords(drop=True).drop_attrs()
        summary["values"] = bare.assign_coords(coords)
    return summary


@dataclass(frozen=True)
class Files:
    """Measurements in a folder, one file each.

    Args:
        folder: The folder.
        patient: Whether to wait for another process that measures into it; else that is an error.
    """

    folder: Path
    patient: bool = False

    @contextmanager
    def alone(self) -> Iterator[Callable[[], None]]:
        """Within, a call of what it yields keeps other processes from measuring into this folder.

        Reading needs no call, and so works in a folder that cannot be written to.

        Raises:
            RunError: From the call, if another process measures into it, or the system cannot write.
        """
        with ExitStack() as stack:
            kept = False

            def keep() -> None:
                nonlocal kept
                if not kept:
                    make_folder(self.folder)
                    stack.enter_context(locked(self.folder, self.patient))
                    kept = True

            yield keep

    def read(self, place: str, origin: Origin, keep_examples: bool) -> xr.Dataset | None:
        """The measurement of a place; None if there is none of this origin, a damaged one, or no single examples.

        Args:
            place: Measure and step, in a form that can be a file's name.
            origin: Of the measurement: weights, task, parameters, code, seed, version.
            keep_examples: Whether the single examples are wanted too.
        """
        try:
            summary = unpack((self.folder / f"{place}.nc").read_bytes())
        except FileNotFoundError:
            return None
        if summary is None or summary.attrs.pop("origin", None) != dict(origin):
            return None
        return summary if _enough(summary, keep_examples) else None

    def write(self, place: str, summary: xr.Dataset, origin: Origin) -> None:
        """Put a measurement on disk, whole or not at all.

        Raises:
            RunError: If the system cannot write.
        """
        path = self.folder / f"{place}.nc"
        make_folder(path.parent)
        write_atomic(path, pack(summary.assign_attrs(origin=dict(origin))))


@dataclass(frozen=True, eq=False)
class Memory:
    """Measurements that live as long as this object: for checkpoints in a folder that is not to be written to."""

    summaries: dict[str, tuple[dict[str, str], xr.Dataset]] = field(default_factory=dict, repr=False)

    @contextmanager
    def alone(self) -> Iterator[Callable[[], None]]:
        """See `Files`; nobody else has this memory."""
        yield lambda: None

    def read(self, place: str, origin: Origin, keep_examples: bool) -> xr.Dataset | None:
        """See `Files`."""
        known, summary = self.summaries.get(place, ({}, None))
        return summary if summary is not None and known == dict(origin) and _enough(summary, keep_examples) else None

    def write(self, place: str, summary: xr.Dataset, origin: Origin) -> None:
        """See `Files`."""
        self.summaries[place] = (dict(origin), summary)


Store = Files | Memory


def _enough(summary: xr.Dataset, keep_examples: bool) -> bool:
    """Whether a measurement has the single examples, if they are wanted and the measure has any."""
    return not keep_examples or "values" in summary or not summary.attrs.get("example_dim")


def architecture(run: RunLike) -> str:
    """A digest of the recorded configuration, as equal weights can belong to two; empty where none is recorded."""
    config = getattr(getattr(run, "config", None), "model", None)
    return digest(config.model_dump(mode="json")) if isinstance(config, ModelConfig) else ""


def interventions_of(run: RunLike, step: int) -> str:
    """A digest of what was changed in a Run's training; empty for a plain training.

    What an intervention turned out to be counts from its start on: a measurement that was taken in training before it
    is the one that a trace afterwards asks for.
    """
    record = run.config if isinstance(run, Run) else None
    if record is None or not record.interventions:
        return ""
    specs = [spec.model_dump(mode="json") for spec in record.interventions]
    known = {n: one.model_dump(mode="json") for n, one in record.resolutions.items() if specs[n]["start"] <= step}
    return digest([specs, known])


def as_stored(data: xr.Dataset) -> xr.Dataset:
    """The same values and attributes, in the types in which they come back from a file, without writing one."""

    def kept(item: xr.Variable) -> xr.Variable:
        values = item.values
        if values.dtype.kind in "iu":  # netCDF 3 has no longer ones
            values = values.astype("int32")
        elif values.dtype.kind in "OU":
            values = values.astype(str)
        return xr.Variable(item.dims, values, _through_json(item.attrs))

    parts = {name: kept(item) for name, item in data.variables.items()}
    return _in_order(parts, _through_json(data.attrs), _further_labels(data))


def _further_labels(data: xr.Dataset) -> list[str]:
    """Coordinates that index no dimension: a file's variables alone do not tell them from data."""
    return sorted(str(name) for name, item in data.coords.items() if item.dims != (name,))


def _in_order(
    parts: Mapping[Hashable, xr.Variable], attrs: Mapping[str, object], further: Collection[str] = ()
) -> xr.Dataset:
    """Variables by name: the reader's own order is another in every process."""
    labels = [name for name, item in parts.items() if item.dims == (name,) or name in further]
    coords = {name: parts[name] for name in sorted(labels, key=str)}
    data = {name: parts[name] for name in sorted(set(parts) - set(labels), key=str)}
    return xr.Dataset(data, coords=coords, attrs=attrs)


def _through_json(attrs: Mapping[Hashable, object]) -> dict[str, object]:
    return json.loads(json.dumps(dict(attrs), default=_plain)) if attrs else {}


def pack(data: xr.Dataset) -> bytes:
    """A Dataset as a netCDF 3 file. Attributes of all kinds survive: they travel as JSON, with a digest of it all."""
    notes: dict[str, object] = {"": data.attrs, **{str(name): item.attrs for name, item in data.variables.items()}}
    notes |= {_FURTHER: further} if (further := _further_labels(data)) else {}
    text = json.dumps(notes, default=_plain)
    bare = xr.Dataset({name: _storable(item) for name, item in data.variables.items()})
    return bytes(bare.assign_attrs(notes=text, digest=_digest(bare, text)).to_netcdf(engine="scipy"))


def unpack(data: bytes) -> xr.Dataset | None:
    """The reverse of `pack`; None if a single bit is not as it was written."""
    try:
        with xr.open_dataset(BytesIO(data), engine="scipy", decode_times=False) as file:
            stored = file.load()
        text, written = stored.attrs["notes"], stored.attrs["digest"]
        notes = json.loads(text)
    except Exception:  # a damaged file can fail anywhere inside the reader, with any error
        return None
    parts = {name: _restored(item, notes.get(str(name), {})) for name, item in stored.variables.items()}
    whole = _in_order(parts, notes.get("", {}), notes.get(_FURTHER, ()))
    return whole if written == _digest(whole, text) else None


def _storable(item: xr.Variable) -> xr.Variable:
    values = item.values
    return xr.Variable(item.dims, values.astype(str) if values.dtype.kind in "OU" else values)


def _restored(item: xr.Variable, attrs: Mapping[str, object]) -> xr.Variable:
    values = item.values
    return xr.Variable(item.dims, values.astype(str) if values.dtype.kind in "OSU" else values, attrs)


def _digest(data: xr.Dataset, text: str) -> str:
    """Over everything that the file holds, so that a flipped bit is detected."""
    hasher = hashlib.sha256(text.encode())
    for name in sorted(str(item) for item in data.variables):
        item = data.variables[name]
        values = item.values
        content = "\0".join(map(str, values.ravel())).encode() if values.dtype.kind in "OUS" else _little(values)
        hasher.update(f"{name}{item.dims}{item.shape}".encode() + content)
    return hasher.hexdigest()[:16]


def _little(values: np.ndarray) -> bytes:
    """Bytes that do not depend on how the file format stores the number: integers come back narrower."""
    return np.ascontiguousarray(values, dtype="<f8" if values.dtype.kind == "f" else "<i8").tobytes()


def _plain(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else str(value)
