"""One measure of one checkpoint on disk: a netCDF file that knows what it was made from.

Files are netCDF 3 (`scipy` reads and writes them without another library, in a few milliseconds). They are derived
data: a file whose weights, task, parameters, seed, code or version differ from what is asked for, or that cannot be
read, is no error; it is measured again and replaced, and nothing is lost.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from mechinterp.training.files import make_folder, write_atomic

Origin = Mapping[str, str]

LAYOUT = "1"
"""Part of a file's origin; raised when these files are laid out anew."""


def summarise(values: xr.DataArray, examples: bool) -> xr.Dataset:
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
    if examples and single:
        parts["values"] = values.drop_vars("example", errors="ignore")
    bare = {name: part.reset_coords(drop=True).drop_attrs() for name, part in parts.items()}
    return xr.Dataset(bare, attrs=dict(values.attrs))


def write(path: Path, found: xr.Dataset, origin: Origin) -> None:
    """Put a summary on disk, whole or not at all.

    Raises:
        RunError: If the system cannot write.
    """
    make_folder(path.parent)
    write_atomic(path, pack(found.assign_attrs(origin=dict(origin))))


def read(path: Path, origin: Origin, examples: bool) -> xr.Dataset | None:
    """The summary in a file, or None where there is none, or none of this origin, or a damaged one."""
    try:
        found = unpack(path.read_bytes())
    except FileNotFoundError:
        return None
    if found is None or found.attrs.pop("origin", None) != dict(origin):
        return None
    if examples and found.attrs.get("example_dim") and "values" not in found:
        return None
    return found


def pack(found: xr.Dataset) -> bytes:
    """A Dataset as a netCDF 3 file. Attributes of all kinds survive: they travel as JSON, with a digest of it all."""
    notes = {"": found.attrs, **{str(name): item.attrs for name, item in found.variables.items()}}
    text = json.dumps(notes, default=_plain)
    bare = xr.Dataset({name: _storable(item) for name, item in found.variables.items()})
    return bytes(bare.assign_attrs(notes=text, digest=_digest(bare, text)).to_netcdf(engine="scipy"))


def unpack(data: bytes) -> xr.Dataset | None:
    """The reverse of `pack`; None if a single bit is not as it was written."""
    try:
        with xr.open_dataset(BytesIO(data), engine="scipy", decode_times=False) as file:
            found = file.load()
        text, digest = found.attrs["notes"], found.attrs["digest"]
        notes = json.loads(text)
    except Exception:  # a damaged file can fail anywhere inside the reader, with any error
        return None
    parts = {name: _restored(item, notes.get(str(name), {})) for name, item in found.variables.items()}
    whole = xr.Dataset(parts, attrs=notes.get("", {}))
    return whole if digest == _digest(whole, text) else None


def _storable(item: xr.Variable) -> xr.Variable:
    values = item.values
    return xr.Variable(item.dims, values.astype(str) if values.dtype.kind in "OU" else values)


def _restored(item: xr.Variable, attrs: dict[str, Any]) -> xr.Variable:
    values = item.values
    return xr.Variable(item.dims, values.astype(str) if values.dtype.kind in "OSU" else values, attrs)


def _digest(found: xr.Dataset, text: str) -> str:
    """Over everything that the file says, so that a flipped bit is found out."""
    hasher = hashlib.sha256(text.encode())
    for name in sorted(str(item) for item in found.variables):
        item = found.variables[name]
        values = item.values
        data = "\0".join(map(str, values.ravel())).encode() if values.dtype.kind in "OUS" else _little(values)
        hasher.update(f"{name}{item.dims}{item.shape}".encode() + data)
    return hasher.hexdigest()[:16]


def _little(values: np.ndarray) -> bytes:
    """Bytes that do not depend on how the file format stores the number: integers come back narrower."""
    return np.ascontiguousarray(values, dtype="<f8" if values.dtype.kind == "f" else "<i8").tobytes()


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)
