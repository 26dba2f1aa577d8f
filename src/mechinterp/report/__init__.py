"""A Run's results as one self-contained HTML page that works offline."""

import sys
from types import ModuleType
from typing import Any


def report(run: Any) -> Any:
    """Write the Run's results as one HTML page."""
    raise NotImplementedError("the report is not written yet")


class _CallableRoom(ModuleType):
    """This package, callable, so that `mi.report(run)` works whatever was imported first.

    The import system binds a submodule on its parent after the submodule has run, so a function `mechinterp.report`
    would be hidden by `import mechinterp.report`; and were the function bound over the module, attribute access to
    `mechinterp.report.<submodule>` would break. A module that can be called has neither fault.
    """

    def __call__(self, *args: Any, **options: Any) -> Any:
        return report(*args, **options)


sys.modules[__name__].__class__ = _CallableRoom
