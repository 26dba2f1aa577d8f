"""Ground floor: addresses, batches, circuits, metrics, seeds, results and errors."""

from mechinterp.core.batches import Batch, Pair
from mechinterp.core.circuits import LOGITS, Circuit, component, owners, rank_edges
from mechinterp.core.errors import (
    ConfigError,
    DivergedError,
    MechinterpError,
    RunError,
    ShapeError,
    SiteError,
    UnsupportedError,
    check_word,
    in_words,
    suggest,
)
from mechinterp.core.examples import SEEN, example_names, held_out, join_names, seen_by, split_names
from mechinterp.core.graph import Graph
from mechinterp.core.machine import (
    check_memory,
    inside_modes,
    memory_explained,
    usable_cores,
    using_threads,
    without_modes,
)
from mechinterp.core.metrics import METRICS, Metric, resolve_metric
from mechinterp.core.options import OPTIONS, TRAVELLING, Option, Options, default_metric, takes
from mechinterp.core.protocols import HookedModel, RunLike, TaskLike
from mechinterp.core.reading import checked, parse, read_file, read_settings, read_table
from mechinterp.core.results import labelled, patching_result, recovery
from mechinterp.core.seeds import derive_seed, exponential, generator, normal, uniform
from mechinterp.core.settings import Settings, explain
from mechinterp.core.sites import Edge, Site, is_reader_input

__all__ = [
    "LOGITS",
    "METRICS",
    "OPTIONS",
    "SEEN",
    "TRAVELLING",
    "Batch",
    "Circuit",
    "ConfigError",
    "DivergedError",
    "Edge",
    "Graph",
    "HookedModel",
    "MechinterpError",
    "Metric",
    "Option",
    "Options",
    "Pair",
    "RunError",
    "RunLike",
    "Settings",
    "ShapeError",
    "Site",
    "SiteError",
    "TaskLike",
    "UnsupportedError",
    "check_memory",
    "check_word",
    "checked",
    "component",
    "default_metric",
    "derive_seed",
    "example_names",
    "explain",
    "exponential",
    "generator",
    "held_out",
    "in_words",
    "inside_modes",
    "is_reader_input",
    "join_names",
    "labelled",
    "memory_explained",
    "normal",
    "owners",
    "parse",
    "patching_result",
    "rank_edges",
    "read_file",
    "read_settings",
    "read_table",
    "recovery",
    "resolve_metric",
    "seen_by",
    "split_names",
    "suggest",
    "takes",
    "uniform",
    "usable_cores",
    "using_threads",
    "without_modes",
]
