"""`Measure`: a named, parametrised function from model, task and seed to labelled numbers; and the registry of them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

import xarray as xr
from pydantic import TypeAdapter, ValidationError

from mechinterp._version import __version__
from mechinterp.core import (
    OPTIONS,
    TRAVELLING,
    Circuit,
    ConfigError,
    Edge,
    Options,
    Site,
    UnsupportedError,
    derive_seed,
    explain,
    suggest,
    without_modes,
)
from mechinterp.core.digest import digest, source_text

Function = Callable[..., xr.DataArray]
_REGISTRY: dict[str, Function] = {}
_EXAMPLES_OF: dict[str, str] = {}
_RESERVED = ("model", "task", "seed")
_NOT_PARAMETERS = (*_RESERVED, "options")
EXAMPLES: int = OPTIONS["examples"].default
"""Examples of most measures."""


def register_measure(name: str, *, examples_of: str | None = None) -> Callable[[Function], Function]:
    """Make a function a measure, known by this name everywhere that takes measures.

    Args:
        name: Letters, digits, `_` and `-`.
        examples_of: A measure that draws in the same way: from one seed both draw the same examples, and where both
            are traced these are drawn, and the model is run on them, once.

    Returns:
        A decorator for `fn(model, task, seed, **params) -> xr.DataArray`. Parameters need defaults or are required of
        the caller, and are plain values. Whatever the function draws, it draws from `seed`, which is its own: it
        depends on the caller's seed and on the measure's name. Where one number per example makes sense, the result
        has a dimension `example`; timelines average over it and keep the standard error.

    Raises:
        ConfigError: If the name is taken by another function or has no place in a file name, or the function does not
            take (model, task, seed).

    >>> @register_measure("weight-norm-example")
    ... def weight_norm(model, task, seed, power=2.0):
    ...     return xr.DataArray(sum(float(p.abs().pow(power).sum()) for p in model.parameters()))
    >>> measure("weight-norm-example", power=1.0).params
    {'power': 1.0}
    """
    if not name or not all(letter.isalnum() or letter in "_-" for letter in name):
        raise ConfigError(f"no measure can be named '{name}': use letters, digits, '_' and '-'")

    def register(function: Function) -> Function:
        arguments = list(inspect.signature(function).parameters.values())
        if tuple(item.name for item in arguments[:3]) != _RESERVED:
            came = ", ".join(item.name for item in arguments[:3]) or "nothing"
            raise ConfigError(f"measure '{name}' takes ({came}): its first arguments are (model, task, seed)")
        loose = [item.name for item in arguments[3:] if item.kind in (item.VAR_POSITIONAL, item.VAR_KEYWORD)]
        if loose:
            raise ConfigError(f"measure '{name}' takes any parameter ({loose[0]}): name them, so that typos are found")
        known = _REGISTRY.get(name)
        # The same function again (a notebook cell run twice, a module reloaded) is a new version of it.
        if known is not None and (known.__module__, known.__qualname__) != (function.__module__, function.__qualname__):
            owner = f"{known.__module__}.{known.__qualname__}"
            raise ConfigError(f"a measure named '{name}' exists already ({owner}): choose another name")
        _REGISTRY[name] = function
        if examples_of is not None:
            _EXAMPLES_OF[name] = examples_of
        return function

    return register


def measure(name: str, **params: object) -> Measure:
    """A measure with its parameters.

    Args:
        name: One of `measures.names()`.
        **params: Parameters of that measure: numbers, strings, booleans, None, lists of them, a Circuit, edges, sites.

    Raises:
        ConfigError: If the measure or a parameter is unknown, a required one is missing, or a value is not plain.

    >>> measure("head_scores", examples=32).key
    'head_scores-...'
    """
    function = function_of(name)
    allowed = _parameters(function)
    for param in params:
        if param not in allowed:
            hint = suggest(param, allowed) if allowed else " It takes none."
            raise ConfigError(f"measure '{name}' has no parameter '{param}'.{hint}")
    missing = [item.name for item in allowed.values() if item.default is item.empty and item.name not in params]
    if missing:
        raise ConfigError(f"measure '{name}' needs {missing[0]}=...")
    full = {item.name: params.get(item.name, item.default) for item in allowed.values()}
    _check_values(name, function, full)
    return Measure(name, {key: _plain(name, key, value) for key, value in full.items()})


def as_measure(what: str | Measure) -> Measure:
    """A measure as it is, or by its name with default parameters."""
    return what if isinstance(what, Measure) else measure(what)


def names() -> list[str]:
    """Names of all measures known in this process, users' own among them."""
    return sorted(_REGISTRY)


@dataclass(frozen=True, eq=False)
class Measure:
    """A named function with all its parameters; call it with (model, task, seed). Make one with `measure(...)`.

    Args:
        name: Name in the registry.
        params: Every parameter, defaults included, as plain data.
    """

    name: str
    params: Mapping[str, Any]

    def __call__(self, model: object, task: object, seed: int = 0) -> xr.DataArray:
        """Measure a model on examples of a task.

        Args:
            model: The model; it is left as it was.
            task: Draws the examples.
            seed: The same seed measures on the same examples; measures of different names share none, unless one of
                them is registered with the examples of the other.

        Raises:
            UnsupportedError: If model or task lack what the measure needs; says which measure.
            ConfigError: If the function does not return labelled numbers.
        """
        own_seed = derive_seed(seed, "measure", _EXAMPLES_OF.get(self.name, self.name))
        try:
            with without_modes():
                values = function_of(self.name)(model, task, own_seed, **self.params)
        except UnsupportedError as error:
            raise UnsupportedError(f"measure '{self.name}' cannot be taken here: {error}") from error
        if not isinstance(values, xr.DataArray):
            raise ConfigError(f"measure '{self.name}' returned {type(values).__name__}: return an xarray.DataArray")
        return values.rename(self.name).assign_attrs(
            measure=self.name, params=json.dumps(dict(self.params), sort_keys=True), seed=seed, version=__version__
        )

    @property
    def key(self) -> str:
        """Name, and unless all parameters are the defaults a hash of them: a folder's name."""
        function = function_of(self.name)
        defaults = {item.name: item.default for item in _parameters(function).values()}
        plain = {key: value for key, value in self.params.items() if value != defaults[key]}
        return f"{self.name}-{digest(dict(self.params), 8)}" if plain else self.name

    @property
    def code(self) -> str:
        """Hash of the function's own text (not of what it calls): an edited measure is another one."""
        return digest(source_text(function_of(self.name)), 8)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Measure) and (self.name, dict(self.params)) == (other.name, dict(other.params))

    def __hash__(self) -> int:
        return hash((self.name, digest(dict(self.params), 8)))

    def __str__(self) -> str:
        return f"{self.name}({', '.join(f'{key}={value!r}' for key, value in self.params.items())})"


def function_of(name: str) -> Function:
    """The function behind a name.

    Raises:
        ConfigError: If no measure has this name.
    """
    if name not in _REGISTRY:
        raise ConfigError(f"no measure '{name}'.{suggest(name, _REGISTRY)}")
    return _REGISTRY[name]


def _parameters(function: Function) -> dict[str, inspect.Parameter]:
    every = inspect.signature(function).parameters
    return {name: item for name, item in every.items() if name not in _NOT_PARAMETERS}


def _check_values(name: str, function: Function, params: Mapping[str, object]) -> None:
    """Refuse a value that its annotation does not allow, and fewer than one example."""
    hints = {key: option.kind for key, option in OPTIONS.items()} | get_type_hints(inspect.unwrap(function))
    for key, value in params.items():
        value = _plain(name, key, value)
        try:
            TypeAdapter(hints.get(key, object)).validate_python(value)
        except ValidationError as error:
            raise ConfigError(f"measure '{name}': {key}={value!r}: {explain(error)}") from None
        if key == "examples" and isinstance(value, int) and value < 1:
            raise ConfigError(f"measure '{name}': examples={value}: at least one is needed")
    # Their words are checked where the value is built.
    Options().change(**{key: value for key, value in params.items() if key in TRAVELLING})


def _plain(name: str, key: str, value: object) -> object:
    """A parameter as JSON data: the same text, and so the same key, wherever it came from."""
    if isinstance(value, Circuit):
        value = [str(edge) for edge in value]
    elif isinstance(value, Edge | Site):
        value = str(value)
    elif isinstance(value, list | tuple):
        return [_plain(name, key, item) for item in value]
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError):
        kind = type(value).__name__
        raise ConfigError(f"measure '{name}': {key} is a {kind}; use plain numbers, strings or lists") from None
