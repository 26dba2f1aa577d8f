"""All statistics of the toolkit: intervals, tests with their p-values, and what is said over seeds."""

from mechinterp.core.statistics.clusters import accuracy_interval, r2_interval
from mechinterp.core.statistics.crossed import variance_components
from mechinterp.core.statistics.intervals import (
    CONFIDENCE,
    Gap,
    Interval,
    gap_between,
    mean_interval,
    ratio_of_means,
    ratio_rows,
    rounding,
    skewed_interval,
    summary_interval,
    t_interval,
)
from mechinterp.core.statistics.kinds import Kind
from mechinterp.core.statistics.over_seeds import FEWEST_SEEDS, SeedInterval, kaplan_meier, seed_interval, too_few
from mechinterp.core.statistics.significance import (
    Null,
    OrderTest,
    binomial_limits,
    binomial_test,
    false_discovery,
    holm,
    order_test,
    p_value,
    sign_test,
)
from mechinterp.core.statistics.spread import variance_over_seeds

__all__ = [
    "CONFIDENCE",
    "FEWEST_SEEDS",
    "Gap",
    "Interval",
    "Kind",
    "Null",
    "OrderTest",
    "SeedInterval",
    "accuracy_interval",
    "binomial_limits",
    "binomial_test",
    "false_discovery",
    "gap_between",
    "holm",
    "kaplan_meier",
    "mean_interval",
    "order_test",
    "p_value",
    "r2_interval",
    "ratio_of_means",
    "ratio_rows",
    "rounding",
    "seed_interval",
    "sign_test",
    "skewed_interval",
    "summary_interval",
    "t_interval",
    "too_few",
    "variance_components",
    "variance_over_seeds",
]
