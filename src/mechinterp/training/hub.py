"""Checkpoints of Hugging Face's hub or in its format: `transformers` loads them, and `from_hf` converts them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field, field_validator

from mechinterp.core import ConfigError, RunError, Settings, parse, read_file
from mechinterp.core.digest import digest
from mechinterp.models import Transformer, from_hf
from mechinterp.training.hashes import FileHashes

if TYPE_CHECKING:
    from torch import nn

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_NO_WEIGHTS = re.compile(r"(inv_freq|masked_bias|attention\.bias)$")
"""Tables and masks that older checkpoints hold beside their weights."""


class HubSource(Settings):
    """Where checkpoints of another library lie; part of `run.json`, so that they are found again.

    Args:
        name: A repository (`owner/name`), or the absolute path of a folder.
        revisions: Step -> branch, tag or commit of the repository; or sub-folder of the folder.
        cache_dir: The hub's cache; None for the usual one.
        n_ctx: The longest sequence; None for the model's own.
    """

    name: str
    revisions: dict[int, str] = Field(min_length=1)
    cache_dir: str | None = None
    n_ctx: int | None = Field(None, ge=1)

    @field_validator("revisions")
    @classmethod
    def _ascending(cls, revisions: dict[int, str]) -> dict[int, str]:
        return dict(sorted(revisions.items()))

    @classmethod
    def at(
        cls, name: str | Path, revisions: Mapping[int, str], cache_dir: str | Path | None, n_ctx: int | None
    ) -> HubSource:
        """The source that a user names.

        Raises:
            ConfigError: If there are no revisions, or the name is neither a folder nor one of a repository.
            RunError: If the folder lacks one of its sub-folders.
        """
        if Path(name).is_dir():
            lacking = [each for each in revisions.values() if not (Path(name) / each).is_dir()]
            if lacking:
                raise RunError(f"{name} has no folder '{lacking[0]}': revisions are its sub-folders")
            name = Path(name).absolute()
        elif not _REPOSITORY.fullmatch(str(name)):
            raise ConfigError(f"'{name}' is neither a folder nor the name of a repository (owner/name)")
        cache = None if cache_dir is None else str(Path(cache_dir).absolute())
        return cls(name=str(name), revisions=dict(revisions), cache_dir=cache, n_ctx=n_ctx)

    @property
    def folder(self) -> Path | None:
        """The folder, if it is no repository."""
        return Path(self.name) if Path(self.name).is_absolute() else None


@dataclass(frozen=True, eq=False)
class HubCheckpoints:
    """Loads one checkpoint at a time.

    A revision that is whole in the cache is taken from there, and the hub is not asked; any other is downloaded into it
    when its step is first needed.

    Args:
        source: Where they lie.
        hashes: Of their files.
    """

    source: HubSource
    hashes: FileHashes

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps, ascending."""
        return tuple(self.source.revisions)

    def model(self, step: int) -> Transformer:
        """The converted model of a step, in float32.

        Raises:
            RunError: If the revision does not exist or cannot be loaded, or its weights do not fit its configuration.
            UnsupportedError: If no `Transformer` computes what it does.
        """
        return from_hf(self._original(step), n_ctx=self.source.n_ctx)

    def weights_hash(self, step: int) -> str:
        """Hash of the configuration's and the weights' files.

        Raises:
            RunError: As for `model`, which is called if they have to be downloaded.
        """
        files = self._files(step)
        if files is None:
            self._original(step)
            files = self._files(step) or {}
        return digest([self.hashes.of(step, files), self.source.n_ctx], 64)

    def _original(self, step: int) -> nn.Module:
        """The model as `transformers` loads it. Nothing that comes with it is run."""
        from transformers import AutoModelForCausalLM

        load: Any = AutoModelForCausalLM.from_pretrained
        options = {"dtype": torch.float32, "trust_remote_code": False, "output_loading_info": True}
        try:
            with _quietly():
                model, report = load(**self._place(step), **options)
        except Exception as error:  # a damaged file can fail anywhere inside the reader, with any error
            raise RunError(self._why(step, error)) from error
        wrong = {kind: sorted(map(_first, report[f"{kind}_keys"])) for kind in ("missing", "unexpected", "mismatched")}
        wrong["unexpected"] = [key for key in wrong["unexpected"] if not _NO_WEIGHTS.search(key)]
        for kind, keys in wrong.items():
            if keys:  # transformers draws missing weights at random
                where = f"'{self.source.revisions[step]}' of {self.source.name}"
                lacks = f"{kind} weights '{keys[0]}' ({len(keys)} in all)"
                raise RunError(f"{where} does not fit its configuration: {lacks}")
        return model

    def _place(self, step: int) -> dict[str, object]:
        """Where `transformers` finds a step."""
        folder = self._snapshot(step)
        if self.source.folder:
            return {"pretrained_model_name_or_path": str(folder)}
        place = {"pretrained_model_name_or_path": self.source.name, "cache_dir": self.source.cache_dir}
        if folder is None or not _whole(folder):
            return {**place, "revision": self.source.revisions[step]}
        # The commit in place of a branch: what was hashed is what is loaded.
        return {**place, "revision": folder.name, "local_files_only": True}

    def _why(self, step: int, error: Exception) -> str:
        """One line on what went wrong."""
        from huggingface_hub import constants

        name, revision, folder = self.source.name, self.source.revisions[step], self._snapshot(step)
        if folder is None and constants.HF_HUB_OFFLINE:
            cache = Path(self.source.cache_dir or constants.HF_HUB_CACHE)
            refs = cache / f"models--{name.replace('/', '--')}" / "refs"
            cached = sorted(str(item.relative_to(refs)) for item in refs.rglob("*") if item.is_file())
            there = (
                f"of {name} it holds {', '.join(cached[:8])}{' ...' if cached[8:] else ''}" if cached else f"nor {name}"
            )
            return f"'{revision}' is not in the cache {cache} ({there}), and HF_HUB_OFFLINE forbids a download"
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"'{revision}' of {name} cannot be loaded{f' from {folder}' if folder else ''}: {text}"

    def _snapshot(self, step: int) -> Path | None:
        """The folder of a step's files, if there is one."""
        revision = self.source.revisions[step]
        if self.source.folder:
            return self.source.folder / revision
        from huggingface_hub import try_to_load_from_cache

        config = try_to_load_from_cache(self.source.name, "config.json", self.source.cache_dir, revision)
        return Path(config).parent if isinstance(config, str) else None

    def _files(self, step: int) -> dict[str, Path] | None:
        """Configuration and weights of a step by name; None if they are not all there."""
        folder = self._snapshot(step)
        if folder is None or not _whole(folder):
            return None
        return {path.name: path for path in (folder / "config.json", *_weights(folder))}


def _weights(folder: Path) -> list[Path]:
    return sorted(path for kind in ("*.safetensors", "*.bin", "*.index.json") for path in folder.glob(kind))


def _whole(folder: Path) -> bool:
    """Whether configuration and weights are there, and every part of weights in several files."""
    files = _weights(folder)
    parts: set[str] = set()
    for index in (path for path in files if path.name.endswith(".index.json")):
        content = parse(read_file(index), "json", str(index))
        parts |= set(content["weight_map"].values()) if isinstance(content, dict) and "weight_map" in content else set()
    there = {path.name for path in files if path.exists()}
    return (folder / "config.json").is_file() and bool(there) and parts <= there


def _first(key: object) -> str:
    """The name of a weight, which comes with its shapes if these do not fit."""
    return str(key[0] if isinstance(key, tuple | list) else key)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without bars and tables of transformers: a trace has its own, and faults are errors."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
