"""The command line: parsing and printing; all work is done in the rooms below."""

from mechinterp.cli.app import main, run

__all__ = ["main", "run"]
