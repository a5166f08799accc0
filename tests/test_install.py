"""install.sh: which build of torch it asks pip for. A stand-in for Python records the calls; nothing is installed."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYTHON = """#!/bin/sh
echo "$*" >> "$LOG"
case "$*" in
    "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
    *" show torch") exit 1 ;;
    *--dry-run*) exit "$NO_CPU_BUILD" ;;
esac
"""
GPU = Path("/dev/nvidia0").exists()

pytestmark = pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64"), reason="other systems have one build of torch"
)


def install(folder: Path, no_cpu_build: int = 0, nvidia_smi: bool = False) -> tuple[str, list[str]]:
    """Runs install.sh; returns what it prints, and the arguments of each `pip install` that is no dry run."""
    tools = folder / "tools"
    tools.mkdir()
    for name in ("sh", "sed", "uname", "dirname", "mkdir", "cp"):  # a PATH without this machine's nvidia-smi
        (tools / name).symlink_to(next(p for d in ("/bin", "/usr/bin") if (p := Path(d, name)).exists()))
    for name in ["python3"] + ["nvidia-smi"] * nvidia_smi:
        (tools / name).write_text(PYTHON)
        (tools / name).chmod(0o755)
    environment = {"PATH": str(tools), "LOG": str(folder / "log"), "NO_CPU_BUILD": str(no_cpu_build)}
    command = ["sh", str(ROOT / "install.sh"), "python3", str(folder / "venv")]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
    calls = [line.split(" install ")[1] for line in (folder / "log").read_text().splitlines() if " install " in line]
    return done.stdout, [c for c in calls if "--dry-run" not in c]


def pinned(package: str) -> str:
    return next(
        v for n, _, v in (x.partition("==") for x in (ROOT / "constraints.txt").read_text().split()) if n == package
    )


@pytest.mark.skipif(GPU, reason="this machine has a GPU")
def test_without_a_gpu_the_cpu_build_of_the_pinned_torch_comes_first(tmp_path: Path) -> None:
    _, calls = install(tmp_path)
    cpu_build = f"--no-deps torch=={pinned('torch')}+cpu torchvision=={pinned('torchvision')}+cpu"
    assert calls == [cpu_build, "--constraint constraints.txt --editable .[dev]"]


@pytest.mark.skipif(GPU, reason="this machine has a GPU")
def test_where_pip_has_no_cpu_build_the_size_of_the_download_is_said_first(tmp_path: Path) -> None:
    printed, calls = install(tmp_path, no_cpu_build=1)
    assert "about 3.0 GB" in printed.partition("Installing into")[0]
    assert calls == ["--constraint constraints.txt --editable .[dev]"]


def test_with_a_gpu_torch_comes_with_cuda(tmp_path: Path) -> None:
    printed, calls = install(tmp_path, nvidia_smi=True)
    assert "torch with CUDA" in printed
    assert calls == ["--constraint constraints.txt --editable .[dev]"]
