"""The rules of the house that no linter knows: sizes, names, imports, no pickle."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from statistics import median, quantiles
from typing import Any

import pytest

from specs.architectures import ARCHITECTURES
from specs.augmentations import AUGMENTATIONS
from specs.datasets import BUILTIN_DATASETS
from specs.jobs import LANES, STORED_SPEC
from specs.optimizers import OPTIMIZERS
from specs.pruning import PRUNING_METHODS
from specs.registry import Registry
from specs.schedules import SCHEDULES
from specs.torchvision_sets import TORCHVISION_SETS
from workers.tasks import TASKS

ROOT = Path(__file__).parent.parent
ROOMS = ("formats", "inference", "ingest", "nets", "pruneyard", "service", "specs", "store", "workers")
FORBIDDEN_NAMES = {"utils.py", "helpers.py", "common.py", "misc.py"}
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MEDIAN_FUNCTION_LINES = 10
P90_FUNCTION_LINES = 30
Function = ast.FunctionDef | ast.AsyncFunctionDef


def files() -> Iterator[Path]:
    for room in ROOMS:
        yield from sorted((ROOT / room).rglob("*.py"))


def functions() -> Iterator[tuple[str, int]]:
    for path in files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, Function):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", lines


def test_functions_are_short() -> None:
    found = dict(functions())
    assert [name for name, lines in found.items() if lines > MAX_FUNCTION_LINES] == []
    assert median(found.values()) <= MEDIAN_FUNCTION_LINES
    assert quantiles(found.values(), n=10)[-1] <= P90_FUNCTION_LINES


def test_files_are_short_and_named_by_a_noun() -> None:
    for path in files():
        assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_FILE_LINES, path
        assert path.name not in FORBIDDEN_NAMES, path
        assert "manager" not in path.name, path


# The one place that reads pickled files: torchvision publishes no others. Its loader takes nothing but tensors.
PICKLES_READ = ("nets/pretrained.py", "torch.load(source, map_location='cpu', weights_only=True)")


def test_nothing_is_pickled() -> None:
    banned = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for path in files():
        allowed: set[ast.AST] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and (path.relative_to(ROOT).as_posix(), ast.unparse(node)) == PICKLES_READ:
                allowed.add(node.func)
            if isinstance(node, ast.Import):
                assert not banned & {alias.name.partition(".")[0] for alias in node.names}, path
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").partition(".")[0] not in banned, path
            elif isinstance(node, ast.Attribute) and node not in allowed:
                called = f"{ast.unparse(node.value)}.{node.attr}"
                assert called not in {"torch.load", "torch.save", "torch.jit.load"}, path


def test_every_file_says_what_it_is() -> None:
    for path in files():
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path


def test_imports_point_down() -> None:
    linter = Path(sys.executable).parent / ("lint-imports.exe" if sys.platform == "win32" else "lint-imports")
    if not linter.exists():
        pytest.fail("import-linter is not installed: pip install -e '.[dev]'")
    ended = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout


REGISTRIES: list[Registry[Any]] = [
    ARCHITECTURES,
    OPTIMIZERS,
    SCHEDULES,
    AUGMENTATIONS,
    PRUNING_METHODS,
    BUILTIN_DATASETS,
    TORCHVISION_SETS,
]


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
def test_every_name_of_the_catalogue_is_built_somewhere(registry: Registry[Any]) -> None:
    for entry in registry.values():
        assert callable(resolve_name(entry.target)), entry.name


def test_every_kind_of_job_has_a_task() -> None:
    mapping = STORED_SPEC.json_schema()["discriminator"]["mapping"]
    assert set(mapping) == set(TASKS)
    assert sorted(kind for lane in LANES for kind in lane) == sorted(TASKS)
    for target in TASKS.values():
        assert find_spec(target.partition(":")[0]) is not None


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("service.app", {"torch", "torchvision", "nets", "workers", "sklearn", "scipy"}),
        ("workers.consumer", {"torch", "torchvision", "nets", "service", "fastapi"}),
        ("workers.job", {"torch", "torchvision", "service", "fastapi"}),
        ("workers.tasks.ingest", {"torch", "torchvision", "service", "fastapi"}),
        ("pruneyard", {"torch", "torchvision", "typer", "rich", "service", "store", "specs"}),
        ("inference.models", {"torch", "fastapi", "sqlalchemy", "store"}),
    ],
)
def test_processes_import_only_what_they_need(module: str, absent: set[str]) -> None:
    program = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not absent & set(loaded.stdout.split())
