"""What can be changed in a training, as data: one class of settings for each kind of intervention.

An intervention that has a `stop` acts at the steps `start <= step < stop`. Step t is the loss of the weights after t
updates, and then update t + 1: an intervention from step t changes the loss that is logged at t, the checkpoint of step
t, and all updates after the first t.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, cast

from pydantic import Field

from mechinterp.core import ConfigError, Settings, check_word
from mechinterp.training.interventions.common import Intervention
from mechinterp.training.interventions.on_activations import (
    ClampSite,
    DisallowKeys,
    GiveCopy,
    GiveInput,
    GivePattern,
    KeepFork,
    ScaleSite,
)
from mechinterp.training.interventions.on_weights import (
    ChangeSettings,
    FreezeWeights,
    ReinitialiseWeights,
    TransplantWeights,
)


class Resolution(Settings):
    """What an intervention turned out to be when it began.

    Args:
        heads: Those that play the role that it names.
        weights: Hash of the weights that a role was found in, or a part was taken from.
    """

    heads: tuple[str, ...] = ()
    weights: str = ""


AnyIntervention = Annotated[
    GivePattern
    | DisallowKeys
    | ScaleSite
    | ClampSite
    | GiveInput
    | GiveCopy
    | KeepFork
    | FreezeWeights
    | ReinitialiseWeights
    | TransplantWeights
    | ChangeSettings,
    Field(discriminator="kind"),
]
"""Any intervention, as it stands in `run.json`."""
INTERVENTION_KINDS: Mapping[str, type[Intervention]] = {
    kind.model_fields["kind"].default: kind
    for kind in (
        *(GivePattern, DisallowKeys, ScaleSite, ClampSite, GiveInput, GiveCopy, KeepFork),
        *(FreezeWeights, ReinitialiseWeights, TransplantWeights, ChangeSettings),
    )
}
"""Kind -> its settings."""


def as_interventions(items: Iterable[object]) -> tuple[AnyIntervention, ...]:
    """Interventions from their settings, as tables of a file have them.

    Raises:
        ConfigError: If a kind or setting is unknown or a value has no meaning; says which intervention.

    >>> as_interventions([{"kind": "scale", "site": "L1.H0.z", "factor": 0}])[0].end
    """
    if isinstance(items, Intervention | Mapping):
        items = [items]
    return tuple(cast(AnyIntervention, _one(number, item)) for number, item in enumerate(items, 1))


def _one(number: int, item: object) -> Intervention:
    if isinstance(item, Intervention):
        return item
    if not isinstance(item, Mapping):
        raise ConfigError(f"intervention {number} is a {type(item).__name__}: give settings, such as kind='pattern'")
    kind = item.get("kind")
    if kind is None:
        raise ConfigError(f"intervention {number} has no kind: one of {', '.join(INTERVENTION_KINDS)}")
    check_word(f"kind of intervention ({number})", kind, INTERVENTION_KINDS)
    try:
        return INTERVENTION_KINDS[str(kind)].of(item)
    except ConfigError as error:
        reason = str(error).split(": ", 1)[-1]
        raise ConfigError(f"intervention {number} ({kind}): {reason}") from None
