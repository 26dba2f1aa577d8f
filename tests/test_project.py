"""The promises of the project as a whole: cheap imports, one list of names, live shape checks, clean files."""

import ast
import importlib
import inspect
import subprocess
import sys
import time
from pathlib import Path

import jaxtyping
import pytest
import torch

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "mechinterp"
HEAVY = {"torch", "transformer_lens", "transformers", "pandas", "xarray", "sklearn", "plotly", "ray"}


def run_python(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def fastest(*arguments: str, runs: int = 5) -> float:
    """Least wall time of several runs: what the program needs, without what else the machine was doing."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        run_python(*arguments)
        times.append(time.perf_counter() - start)
    return min(times)


def typed_exports() -> dict[str, str]:
    """Name -> module, as the `if TYPE_CHECKING` block of the package's front door tells a type checker."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (block,) = [n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    exports = {}
    for statement in block.body:
        assert isinstance(statement, ast.ImportFrom)
        for alias in statement.names:
            assert alias.asname == alias.name, f"{alias.name} must be re-exported as itself"
            module = statement.module
            exports[alias.name] = f"mechinterp.{alias.name}" if module == "mechinterp" else module
    return exports


CANARY = """
from jaxtyping import Float
from torch import Tensor

def total(values: Float[Tensor, "batch seq"], weights: Float[Tensor, " batch"]) -> Float[Tensor, " seq"]:
    return weights @ values
"""


def test_wrong_shape_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The guard of every other test: were the shape checks off, only this one would notice.

    A module planted inside the package is checked by the same hook as every real one.
    """
    mi = importlib.import_module("mechinterp")
    (tmp_path / "_canary.py").write_text(CANARY)
    monkeypatch.setattr(mi, "__path__", [*mi.__path__, str(tmp_path)])
    canary = importlib.import_module("mechinterp._canary")
    assert torch.equal(canary.total(torch.ones(2, 3), torch.ones(2)), torch.full((3,), 2.0))
    with pytest.raises(jaxtyping.TypeCheckError):
        canary.total(torch.ones(2, 3), torch.ones(3))
    with pytest.raises(jaxtyping.TypeCheckError):
        canary.total(torch.ones(2, 3, dtype=torch.long), torch.ones(2))


def test_lazy_names_equal_typed_names():
    mi = importlib.import_module("mechinterp")
    assert typed_exports() == mi._EXPORTS
    assert mi.__all__ == ["__version__", *mi._EXPORTS]
    assert set(mi.__all__) <= set(dir(mi))


def test_every_public_name_exists():
    mi = importlib.import_module("mechinterp")
    missing = [name for name in mi.__all__ if not hasattr(mi, name)]
    assert missing == []


def test_unknown_name_is_an_attribute_error():
    mi = importlib.import_module("mechinterp")
    with pytest.raises(AttributeError, match="no attribute 'patch_node'"):
        _ = mi.patch_node


def test_no_function_shares_its_name_with_a_room():
    """Importing a room binds it on the package, and would hide a function of that name."""
    mi = importlib.import_module("mechinterp")
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    functions = {name for name, module in mi._EXPORTS.items() if module != f"mechinterp.{name}"}
    assert rooms & functions == set()


def test_import_is_light():
    loaded = run_python("-c", "import sys, mechinterp, mechinterp.cli; print(*sys.modules)").split()
    assert set(loaded) & HEAVY == set()


def test_help_is_light():
    code = (
        "import sys\nfrom mechinterp.cli import main\nsys.argv = ['mechinterp', 'train', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\nprint('LOADED', *sys.modules)"
    )
    loaded = run_python("-c", code).split("LOADED", 1)[1].split()
    assert set(loaded) & HEAVY == set()


@pytest.mark.parametrize(
    "arguments",
    [
        ("-c", "import mechinterp"),
        ("-c", "import sys; sys.argv = ['mechinterp', 'train', '--help']; from mechinterp.cli import main; main()"),
    ],
    ids=["import", "train --help"],
)
def test_answers_in_under_half_a_second(arguments: tuple[str, ...]):
    assert fastest(*arguments) < 0.5


def committed_text() -> list[tuple[str, str]]:
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = []
    for name in filter(None, names.split("\0")):
        path = ROOT / name
        if path.suffix != ".safetensors" and path.is_file() and path != Path(__file__):
            found.append((name, path.read_text(encoding="utf-8", errors="replace")))
    return found


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs the repository")
def test_no_committed_file_names_a_package_source():
    """Where packages come from is the installer's business: pins name versions, never hosts or paths."""
    marks = ["index-url", "find-links", "pythonhosted", "pypi.org", "download.pytorch.org", "file://", "npmjs"]
    hits = [(name, mark) for name, text in committed_text() for mark in marks if mark in text]
    assert hits == []


def test_constraints_pin_exact_versions():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    assert all(len(line.split("==")) == 2 and " " not in line and "+" not in line for line in lines)
    assert "torch==2.13.0" in lines


def test_no_two_public_classes_or_constants_share_a_name():
    """One word, one meaning: who reads a name anywhere knows which it is."""
    owners: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for statement in ast.parse(path.read_text()).body:
            names = [statement.name] if isinstance(statement, ast.ClassDef) else []
            if isinstance(statement, ast.Assign | ast.AnnAssign):
                targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
                names = [target.id for target in targets if isinstance(target, ast.Name)]
            for name in names:
                if name[0].isupper():
                    owners.setdefault(name, []).append(str(path.relative_to(PACKAGE)))
    assert {name: files for name, files in owners.items() if len(files) > 1} == {}


def test_an_option_has_one_default():
    """A parameter that is a shared option has the shared default, or one that `takes` declares."""
    mi = importlib.import_module("mechinterp")
    options = importlib.import_module("mechinterp.core").OPTIONS
    own = {("patch_nodes", "direction")}
    # These draw no pairs: a probe fits on its examples, a study and a claim have sizes of their own.
    own |= {("probe", "site"), ("probe", "examples"), ("study", "examples"), ("discover", "seed")}
    own |= {("discover", "share")}  # None says that it is not given, as k may be
    functions = [name for name in mi.__all__ if inspect.isfunction(getattr(mi, name))]
    for name in functions:
        for parameter in inspect.signature(getattr(mi, name)).parameters.values():
            if parameter.name in options and (name, parameter.name) not in own:
                expected = (options[parameter.name].default, inspect.Parameter.empty)
                assert parameter.default in expected, (name, parameter.name)
