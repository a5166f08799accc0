"""The house stays easy to find one's way in: few modules a folder, short modules, few parameters a function."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("model", "pipeline", "jobs")
MODULES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
MODULES_IN_FOLDER, LINES, PARAMETERS = 12, 250, 6


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_no_folder_has_more_than_a_dozen_modules() -> None:
    counts = Counter(path.parent for path in MODULES if path.name != "__init__.py")
    assert counts.total() > 50
    assert not {shown(folder): n for folder, n in counts.items() if n > MODULES_IN_FOLDER}


def test_every_package_says_what_it_is_for() -> None:
    packages = [path for path in MODULES if path.name == "__init__.py"]
    assert len(packages) > 10
    assert not [shown(path) for path in packages if not ast.get_docstring(ast.parse(path.read_text()))]


@pytest.mark.parametrize("path", MODULES, ids=shown)
def test_a_module_is_short_or_says_why_it_is_not(path: Path) -> None:
    text = path.read_text()
    reason = "one file" in (ast.get_docstring(ast.parse(text)) or "")
    assert len(text.splitlines()) <= LINES or reason


def test_functions_have_few_parameters() -> None:
    """Commands are left out, since their parameters are options, and so are compiled functions, which take scalars."""
    wrong = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                and not _is_command(node)
                and not _is_compiled(node)
            ):
                a = node.args
                names = [p.arg for p in (*a.posonlyargs, *a.args, *a.kwonlyargs) if p.arg not in ("self", "cls")]
                if len(names) > PARAMETERS:
                    wrong.append(f"{shown(path)}:{node.lineno}: {node.name}({', '.join(names)})")
    assert not wrong, "\n".join(wrong)


def _is_command(node: ast.FunctionDef) -> bool:
    """Whether a function is a Typer command: one of its parameters is declared as an option or an argument."""
    declared = ast.dump(node.args)
    return any(f"attr='{kind}'" in declared for kind in ("Option", "Argument")) or "AsJson" in declared


def _is_compiled(node: ast.FunctionDef) -> bool:
    """Whether Numba compiles a function: arguments in tuples would make it slower."""
    return any(isinstance(d, ast.Name) and d.id == "_compiled" for d in node.decorator_list)
