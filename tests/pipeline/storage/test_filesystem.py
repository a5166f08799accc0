"""Places: addresses, storage options, and small objects that are written atomically."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.storage import Place, place
from pipeline.storage.filesystem import options_for


def test_local_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert place("a/b").url == f"{tmp_path}/a/b"
    assert place(f"file://{tmp_path}/a").url == f"{tmp_path}/a"
    assert place("s3://bucket/key/").url == "s3://bucket/key"
    assert place("s3://bucket/key").join("results", "x").path == "bucket/key/results/x"


def test_put_and_list(tmp_path: Path) -> None:
    folder = place(tmp_path / "new" / "folder")
    assert folder.list(".json") == []
    folder.join("b.json").put(b"1")
    folder.join("a.json").put(b"2")
    folder.join("a.json").put(b"3")
    assert [p.url.rsplit("/", 1)[-1] for p in folder.list(".json")] == ["a.json", "b.json"]
    assert (tmp_path / "new/folder/a.json").read_bytes() == b"3"
    assert len(list((tmp_path / "new/folder").iterdir())) == 2


def test_unknown_stores_and_missing_packages_say_what_to_do() -> None:
    with pytest.raises(InputError, match="nosuch://x"):
        _ = place("nosuch://x/y").fs
    with pytest.raises(InputError, match=r"pip install gcsfs"):
        _ = place("gs://bucket/x").fs
    with pytest.raises(InputError, match=r"pip install adlfs"):
        _ = place("abfs://bucket/x").fs
    with pytest.raises(InputError, match="install the fsspec package for gdrive"):
        _ = place("gdrive://bucket/x").fs


def test_options_are_not_shown() -> None:
    assert "hunter2" not in repr(Place("s3://b/k", {"secret": "hunter2"}))


def test_an_option_with_a_protocol_is_for_that_protocol_alone() -> None:
    options = {"anon": True, "s3.anon": False, "s3.key": "k", "gcs.token": "t", "memory.x": 1}
    assert options_for(options, "s3") == {"anon": False, "key": "k"}
    assert options_for(options, "s3a") == {"anon": False, "key": "k"}
    assert options_for(options, "gs") == {"anon": True, "token": "t"}
    assert options_for(options, "az") == {"anon": True}
    fs = Place("s3://b/k", {"s3.endpoint_url": "http://127.0.0.1:1", "gs.project": "p"}).fs
    assert fs.endpoint_url == "http://127.0.0.1:1"
    assert fs.dircache.use_listings_cache is False


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"old")
    with pytest.raises(TypeError):
        place(tmp_path / "x").put("no bytes", place(tmp_path / "parts"))  # type: ignore[arg-type]
    assert (tmp_path / "x").read_bytes() == b"old"
    assert not list((tmp_path / "parts").iterdir())
