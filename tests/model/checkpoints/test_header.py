"""The header of a checkpoint says what the whole checkpoint does."""

from __future__ import annotations

from pathlib import Path

import pytest

from model import WeightsError, read_checkpoint
from model.checkpoints.header import read_header
from model.checkpoints.shipped import SHIPPED, shipped_names


@pytest.mark.parametrize("name", shipped_names())
def test_a_header_agrees_with_the_checkpoint(name: str) -> None:
    header, checkpoint = read_header(SHIPPED / f"{name}.safetensors"), read_checkpoint(name)
    assert header.preset == checkpoint.preset
    assert header.provenance == checkpoint.provenance
    assert header.shapes == {k: tuple(v.shape) for k, v in checkpoint.state.items() if v.is_floating_point()}
    trained = [v for k, v in checkpoint.state.items() if v.is_floating_point() and ".running_" not in k]
    assert header.parameters == sum(v.numel() for v in trained)


@pytest.mark.parametrize(
    "content", [b"", b"<html>sign in</html>", b"\x02" + bytes(7) + b"{}", b"\x03" + bytes(7) + b"[1]"]
)
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(WeightsError, match="not a checkpoint that maskfleet wrote"):
        read_header(tmp_path / "w")
    with pytest.raises(WeightsError, match="cannot read weights"):
        read_header(tmp_path / "missing")
