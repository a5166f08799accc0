"""Imports run jobs -> pipeline -> model, never back; and the model room needs no Ray and no storage."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RULES = {
    "model": {"ray", "pyarrow", "s3fs", "duckdb", "typer", "rich", "pipeline", "jobs"},
    "pipeline": {"jobs", "typer", "rich"},
}


def imported(tree: ast.AST) -> set[str]:
    """Top-level packages of every import below a node, in functions too."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
        elif isinstance(node, ast.ImportFrom) and node.level:
            names |= {"(relative)"}
    return names


def outside_functions(tree: ast.Module) -> ast.Module:
    """The module without the bodies of its functions: what runs when it is imported."""

    class Strip(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    return Strip().visit(tree)


def files(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("room", RULES)
def test_a_room_imports_nothing_from_above(room: str) -> None:
    assert len(files(room)) > 5
    wrong = {}
    for path in files(room):
        found = imported(ast.parse(path.read_text()))
        if bad := found & (RULES[room] | {"(relative)"}):
            wrong[str(path.relative_to(ROOT))] = sorted(bad)
    assert not wrong


def test_the_model_room_imports_fsspec_only_where_a_uri_is_opened() -> None:
    for path in files("model"):
        assert "fsspec" not in imported(outside_functions(ast.parse(path.read_text()))), path.name


def test_the_rule_sees_every_kind_of_import() -> None:
    source = (
        "import ray.data as r, os\nfrom pyarrow.fs import S3\ndef f():\n    from jobs import x\n    import fsspec\n"
    )
    assert imported(ast.parse(source)) == {"ray", "os", "pyarrow", "jobs", "fsspec"}
    assert imported(outside_functions(ast.parse(source))) == {"ray", "os", "pyarrow"}
    assert imported(ast.parse("from . import x")) == {"(relative)"}


def loaded(modules: str, then: str = "pass") -> set[str]:
    """Top-level packages that importing some modules loads: what imports drag in no reading of the sources shows."""
    code = f"import sys, {modules}; {then}; print(*{{m.split('.')[0] for m in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_model_room_loads_none_of_them() -> None:
    packages = loaded("model, model.rle")
    assert "torch" in packages
    assert not (RULES["model"] | {"fsspec"}) & packages


def test_only_the_actor_loads_what_the_network_needs() -> None:
    """Every process of the other stages, and the one that checks a checkpoint, would take seconds for it."""
    checks, runs = "c = m.read_checkpoint('nuclei'); m.build(c, c.preset)", "m.load_model('nuclei', precision='bf16')"
    assert "torchvision" in loaded("model.load as m", runs)
    assert "torchvision" not in loaded("model.load as m, jobs.segment, pipeline.fetch, pipeline.encode", checks)
