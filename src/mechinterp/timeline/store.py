"""Where measurements are kept, one per measure and checkpoint, each with its origin: in files or in memory.

Files are netCDF 3 (`scipy` reads and writes them without another library, in a few milliseconds). They are derived
data: a file of other weights, task, parameters, seed, code or version, or one that cannot be read, is no error; the
measurement is repeated and the file replaced, and nothing is lost.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
import xarray as xr

from mechinterp.core import RunError, RunLike
from mechinterp.core.digest import digest
from mechinterp.models import ModelConfig
from mechinterp.training.files import make_folder, write_atomic

Origin = Mapping[str, str]

LAYOUT = "1"
"""Part of a file's origin; a change of the files' layout raises it."""


def summarise(values: xr.DataArray, keep_examples: bool) -> xr.Dataset:
    """`mean`, `se` and `n` over examples, and `values` with single examples on request.

    A measure without an `example` dimension is its own mean: `se` is NaN and `n` is 1. Values that are not finite
    (a role absent from an example) are left out of mean, error and count. Dimensions without labels (layers, heads) are
    numbered, so that measures that number them and measures that do not fit together.
    """
    single = "example" in values.dims
    counted = [dim for dim in values.dims if dim not in values.coords and dim != "example"]
    values = values.assign_coords({dim: np.arange(values.sizes[dim]) for dim in counted})
    data = values.astype(float).where(np.isfinite(values))
    if single:
        n = data.notnull().sum("example")
        mean = data.mean("example")
        se = data.std("example", ddof=1) / np.sqrt(n.where(n > 1))
    else:
        n, mean, se = data.notnull().astype(int), data, xr.full_like(data, np.nan)
    parts = {"mean": mean, "se": se, "n": n.astype("int32")}
    if keep_examples and single:
        parts["values"] = values.drop_vars("example", errors="ignore")
    bare = {name: part.reset_coords(drop=True).drop_attrs() for name, part in parts.items()}
    return xr.Dataset(bare, attrs=dict(values.attrs))


@dataclass(frozen=True)
class Files:
    """Measurements in a folder, one file each."""

    folder: Path

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


def as_stored(data: xr.Dataset) -> xr.Dataset:
    """The same values and attributes, in the types in which they come back from a file."""
    stored = unpack(pack(data))
    if stored is None:
        raise RunError("a measurement is not read as it was written")
    return stored


def pack(data: xr.Dataset) -> bytes:
    """A Dataset as a netCDF 3 file. Attributes of all kinds survive: they travel as JSON, with a digest of it all."""
    notes = {"": data.attrs, **{str(name): item.attrs for name, item in data.variables.items()}}
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
    whole = xr.Dataset(parts, attrs=notes.get("", {}))
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
