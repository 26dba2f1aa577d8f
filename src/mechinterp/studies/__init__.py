"""The story of a Run, of many, and of twins, one of them changed: dates, circuit, probes, each beside its null."""

from mechinterp.studies.account import Account, account
from mechinterp.studies.declaration import Declaration, DeclaredFile
from mechinterp.studies.latents import latent_line, read_and_used
from mechinterp.studies.learning import loss_rows
from mechinterp.studies.milestones import Milestone
from mechinterp.studies.over_seeds import SeedStudy, declared_study
from mechinterp.studies.study import Study, study
from mechinterp.studies.twins import Twins, TwinsFile, twins

__all__ = [
    "Account",
    "Declaration",
    "DeclaredFile",
    "Milestone",
    "SeedStudy",
    "Study",
    "Twins",
    "TwinsFile",
    "account",
    "declared_study",
    "latent_line",
    "loss_rows",
    "read_and_used",
    "study",
    "twins",
]
