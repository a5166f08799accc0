"""Imports run one way: jobs -> pipeline -> model between the rooms, and downwards between the packages of a room."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# The modules and packages of each room, lowest first: one may import what stands before it, never what comes after.
ORDER = {
    "model": [
        *["errors", "preset", "detections", "layers", "masks", "checkpoints", "batching"],
        *["mask_rcnn", "inference", "rle", "load", "training"],
    ],
    "pipeline": [
        *["errors", "schema", "observer", "storage", "images", "catalog", "options", "output", "cluster", "stages"],
        *["plan", "estimate", "job", "analysis"],
    ],
    "jobs": [
        *["terminal", "sample", "segment", "status", "query", "evaluate", "weights", "train", "demo"],
        *["benchmarks", "benchmark", "main"],
    ],
}
BELOW = {"model": [], "pipeline": ["model"], "jobs": ["model", "pipeline"]}  # rooms that a room may import
OUTSIDE = {  # packages that a room must not import
    "model": {"ray", "pyarrow", "s3fs", "duckdb", "typer", "rich"},
    "pipeline": {"typer", "rich"},
    "jobs": set(),
}


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import below a node, in functions too; `from a import b` counts as a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "(relative)" if node.level else node.module or ""
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def outside_functions(tree: ast.Module) -> ast.Module:
    """The module without the bodies of its functions: what runs when it is imported."""

    class Strip(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    return Strip().visit(tree)


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def modules(room: str) -> dict[str, Path]:
    """Dotted name and file of each module of a room; a package stands for its `__init__`."""
    files = sorted((ROOT / room).rglob("*.py"))
    return {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in files}


MODULES = modules("model") | modules("pipeline") | modules("jobs")


def resolved(name: str) -> str | None:
    """The module of ours that a dotted name lies in; None if it is of another package."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name or None


@cache
def edges(room: str) -> list[tuple[str, str, str]]:
    """(module, what it imports of ours, where) for each import of a room."""
    found = []
    for name, path in modules(room).items():
        text = path.read_text()
        for line, imported in imports(parsed(path)):
            if (target := resolved(imported)) and target != name:
                shown = text.splitlines()[line - 1].strip()
                found.append((name, target, f"{path.relative_to(ROOT)}:{line}: {shown}"))
    return found


@pytest.mark.parametrize("room", ORDER)
def test_imports_between_the_rooms_run_down(room: str) -> None:
    assert len(modules(room)) > 5
    wrong = [where for _, target, where in edges(room) if target.split(".")[0] not in (room, *BELOW[room])]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("room", ORDER)
def test_imports_between_the_packages_of_a_room_run_down(room: str) -> None:
    rank = {unit: i for i, unit in enumerate(ORDER[room])}
    found = {name.split(".")[1] for name in modules(room) if "." in name}
    assert found == set(rank), "ORDER must list every module and package of the room, and no other"
    wrong = []
    for name, target, where in edges(room):
        inside = target.startswith(f"{room}.") and "." in name  # a room's own `__init__` is its public surface
        if inside and rank[target.split(".")[1]] > rank[name.split(".")[1]]:
            wrong.append(where)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("room", ORDER)
def test_modules_import_each_other_without_circles(room: str) -> None:
    graph: dict[str, dict[str, str]] = {}
    for name, target, where in edges(room):
        if target.startswith(f"{room}.") and target in MODULES:
            graph.setdefault(name, {})[target] = where
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> None:
        assert name not in path, "\n".join(graph[a][b] for a, b in zip(path, [*path[1:], name], strict=True))
        if name not in done:
            for target in graph.get(name, {}):
                visit(target, [*path, name])
            done.add(name)

    for name in list(graph):
        visit(name, [])


@pytest.mark.parametrize("room", ORDER)
def test_a_room_imports_only_its_own_libraries(room: str) -> None:
    wrong = []
    for path in modules(room).values():
        for line, name in imports(parsed(path)):
            if name.split(".")[0] in OUTSIDE[room] | {"(relative)"}:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {name}")
    assert not wrong, "\n".join(wrong)


def test_the_model_room_imports_fsspec_only_where_a_uri_is_opened() -> None:
    for path in modules("model").values():
        names = {name.split(".")[0] for _, name in imports(outside_functions(ast.parse(path.read_text())))}
        assert "fsspec" not in names, path.name


def test_the_rule_sees_every_kind_of_import() -> None:
    source = (
        "import ray.data as r, os\nfrom pyarrow.fs import S3\ndef f():\n    from jobs import x\n    import fsspec\n"
    )
    assert dict(imports(ast.parse(source))).keys() == {1, 2, 4, 5}
    names = {name for _, name in imports(ast.parse(source))}
    assert names == {"ray.data", "os", "pyarrow.fs.S3", "jobs.x", "fsspec"}
    assert {name for _, name in imports(outside_functions(ast.parse(source)))} == {"ray.data", "os", "pyarrow.fs.S3"}
    assert {name for _, name in imports(ast.parse("from . import x"))} == {"(relative).x"}
    assert resolved("pipeline.catalog.slices.Slice") == "pipeline.catalog.slices"
    assert resolved("ray.data") is None


def loaded(*steps: str) -> list[set[str]]:
    """Top-level packages after each step of a new process: what imports drag in no reading of the sources shows."""
    note = "seen.append(sorted({m.split('.')[0] for m in sys.modules if sys.modules[m]}))"
    code = "\n".join(
        ["import json, sys", "seen = []", *(f"{step}\n{note}" for step in steps), "print(json.dumps(seen))"]
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return [set(packages) for packages in json.loads(done.stdout)]


@pytest.fixture(scope="module")
def model_room() -> list[set[str]]:
    """Packages of a process that imports the model room, then what other stages import, and then loads a network."""
    stages = "import model.load as m, jobs.segment, pipeline.stages.fetch, pipeline.stages.encode"
    checks = "c = m.read_checkpoint('nuclei'); m.build_network(c, c.preset)"
    load = """
sys.modules["torchvision"] = None  # so that importing it fails, which does not take seconds
try:
    m.load_model(c, precision="bf16", device="cpu")
except ModuleNotFoundError as error:
    sys.modules[error.name] = "needed"
"""
    return loaded("import model, model.rle", f"{stages}; {checks}", load)


@pytest.mark.slow
def test_importing_the_model_room_loads_no_library_of_the_others(model_room: list[set[str]]) -> None:
    assert "torch" in model_room[0]
    assert not (OUTSIDE["model"] | {"fsspec", "pipeline", "jobs"}) & model_room[0]


@pytest.mark.slow
def test_only_the_actor_loads_what_the_network_needs(model_room: list[set[str]]) -> None:
    """Every process of the other stages, and the one that checks a checkpoint, would take seconds for it."""
    assert ["torchvision" in packages for packages in model_room] == [False, False, True]


@pytest.mark.slow
def test_reading_an_output_loads_no_heavy_library() -> None:
    """`maskfleet status` and `maskfleet query` start in under half a second."""
    heavy = {"ray", "torch", "pandas", "s3fs", "pycocotools", "model"}
    status, sql, evaluation = loaded(
        "import pipeline.output.counts, pipeline.output.lease, pipeline.output.run_record",
        "import pipeline.analysis.sql",
        "import pipeline.analysis.evaluate, pipeline.analysis.original_images",
    )
    assert not (heavy | {"duckdb"}) & status
    assert not heavy & sql
    assert not {"ray", "torch", "s3fs"} & evaluation
