"""The story of a Run, and of many: heads, dates, circuit, probes, what seeds agree on, each beside its null."""

from mechinterp.studies.declaration import Declaration, DeclaredFile
from mechinterp.studies.latents import latent_line, read_and_used
from mechinterp.studies.learning import loss_rows
from mechinterp.studies.over_seeds import SeedStudy, declared_study
from mechinterp.studies.study import Study, study

__all__ = [
    "Declaration",
    "DeclaredFile",
    "SeedStudy",
    "Study",
    "declared_study",
    "latent_line",
    "loss_rows",
    "read_and_used",
    "study",
]
