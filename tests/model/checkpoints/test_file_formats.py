"""File formats: PyTorch archives, pickles and safetensors are parsed, and code in them never runs."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from support.small_checkpoint import SHAPE, State, assert_holds, on_disk

from model import WeightsError, read_checkpoint


def test_the_legacy_torch_format(small_state: State, tmp_path: Path) -> None:
    assert_holds(
        read_checkpoint(on_disk(small_state, tmp_path / "w.pth", _use_new_zipfile_serialization=False)), small_state
    )


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"model": s, "epoch": 12, "optimizer": {"lr": 0.1}},
        lambda s: {"state_dict": s},
        lambda s: {"module." + k: v for k, v in s.items()},
        lambda s: {"model": {"module." + k: v for k, v in s.items()}},
    ],
    ids=["model", "state_dict", "module", "both"],
)
def test_a_state_dict_wrapped_by_a_training_script(
    small_state: State, tmp_path: Path, wrap: Callable[[State], Any]
) -> None:
    assert_holds(read_checkpoint(on_disk(wrap(small_state), tmp_path / "w.pth")), small_state)


class Harmful:
    """Creates a folder when it is unpickled, as malicious code could."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    path, folder = tmp_path / "harmful.pkl", tmp_path / "ran"
    path.write_bytes(pickle.dumps({"model": Harmful(folder)}, protocol))
    with pytest.raises(WeightsError, match="harmful"):
        read_checkpoint(path)
    assert not folder.exists()
    pickle.loads(path.read_bytes())  # without protection it runs
    assert folder.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_torch_file_with_code_is_refused_and_not_run(small_state: State, tmp_path: Path, zipped: bool) -> None:
    path, folder = tmp_path / "harmful.pth", tmp_path / "ran"
    torch.save(small_state | {"extra": Harmful(folder)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match="harmful"):
        read_checkpoint(path)
    assert not folder.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"\0" * 1000,
        b"\xff" * 1000,
        b"<!DOCTYPE html><title>404 Not Found</title>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 178090079\n",
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"PK\x03\x04" + bytes(100),
        b"PK",
        b"\x80\x02",
        b"\x80\x04" + bytes(range(256)),
        b"\x80\x02}q\x00.",  # an empty dict
        b"\x80\x02]q\x00.",  # an empty list
        b"\x80\x02K\x05.",  # 5
        (100).to_bytes(8, "little") + b"{" * 100,
        (2).to_bytes(8, "little") + b"{}",
        np.random.default_rng(0).bytes(5000),
    ],
    ids=repr,
)
def test_garbage(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "garbage.bin"
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"garbage\.bin"):
        read_checkpoint(path)


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_a_truncated_file(small_state: State, tmp_path: Path, form: str) -> None:
    """A download that broke off at any place is an error that names the file."""
    whole, cut = tmp_path / "whole", tmp_path / "cut.bin"
    if form == "safetensors":
        safetensors.torch.save_file(small_state, whole, metadata={"preset": SHAPE.to_json()})
    else:
        torch.save(small_state, whole, _use_new_zipfile_serialization=form == "zip")
    data = whole.read_bytes()
    other = []
    for end in [1, 2, 9, 100, 1000, *(len(data) * i // 20 for i in range(1, 20)), len(data) - 1]:
        cut.write_bytes(data[:end])
        try:
            read_checkpoint(cut)
            other.append(f"{end} of {len(data)} bytes: read")
        except WeightsError as error:
            assert "cut.bin" in str(error)
        except Exception as error:
            other.append(f"{end} of {len(data)} bytes: {type(error).__name__}: {error}")
    assert not other


@pytest.mark.parametrize(
    "content",
    [{}, [], {"epoch": 3}, {"model": {"epoch": 3}}, {"model": {}}, torch.zeros(3), {1: torch.zeros(3)}],
    ids=repr,
)
def test_a_torch_file_without_a_state_dict(content: Any, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"w\.pth"):
        read_checkpoint(on_disk(content, tmp_path / "w.pth"))
