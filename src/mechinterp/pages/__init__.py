"""Results as self-contained HTML pages that work offline."""

from mechinterp.pages.report import report

__all__ = ["report"]
