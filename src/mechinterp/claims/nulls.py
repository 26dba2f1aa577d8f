"""Claims on models that learnt nothing: one that is for the mechanism must hold for none of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mechinterp.claims.pool import Portion, untrained_group
from mechinterp.claims.retrain import trained_groups
from mechinterp.claims.schema import Claim
from mechinterp.claims.shipped import LoadedCircuit
from mechinterp.core import ConfigError
from mechinterp.core.progress import Progress

NULL_MODELS = ("untrained", "shuffled-targets")
"""What stands in the place of trained models: their like before training, or trained on targets of other examples."""


def mechanism_claims(circuit: LoadedCircuit, null: str, only: Sequence[str] | None) -> list[Claim]:
    """The claims of a circuit that must fail on null models.

    Args:
        circuit: The circuit.
        null: Untrained models have no history, so that claims about checkpoints alone are left out.
        only: Ids; None for all.

    Raises:
        ConfigError: If `only` names a claim that may hold for a null model.
    """
    chosen = [claim for claim in circuit.claims if only is None or claim.id in only]
    other = [claim for claim in chosen if only is not None and claim.purpose != "mechanism"]
    if other:
        raise ConfigError(f"claim '{other[0].id}' is a {other[0].purpose}: only claims of purpose mechanism must fail")
    modes = {"shipped"} if null == "untrained" else {"shipped", "retrained"}
    chosen = [claim for claim in chosen if claim.purpose == "mechanism" and not claim.not_testable]
    return [claim for claim in chosen if modes & set(claim.on)]


def null_portions(
    circuits: Sequence[LoadedCircuit],
    claims: Sequence[Sequence[Claim]],
    null: str,
    seeds: Mapping[str, Sequence[int]],
    folder: Path,
    workers: int | None,
    show: Progress,
) -> list[list[Portion]]:
    """What is to be measured of each circuit, one portion per seed.

    Args:
        circuits: The circuits.
        claims: Of each.
        null: What stands in the place of the trained models.
        seeds: Circuit -> seeds of its null models.
        folder: Of the Runs that are trained for this, and continued where they are there.
        workers: Processes that train.
        show: Hears how far training is.
    """
    if null == "untrained":
        return [
            [Portion(one, own, untrained_group(one, seed), False, False, seed) for seed in seeds[one.name]]
            for one, own in zip(circuits, claims, strict=True)
        ]
    wanted = {
        one.name: sorted({name for claim in own for name in claim.models})
        for one, own in zip(circuits, claims, strict=True)
    }
    groups = trained_groups(circuits, wanted, seeds, folder, workers, show, null)
    return [
        [Portion(one, own, group, False, False) for group in groups[one.name]]
        for one, own in zip(circuits, claims, strict=True)
    ]
