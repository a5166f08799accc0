"""Versions of objects."""

from __future__ import annotations

from pathlib import Path

from pipeline.storage import place, version_of


def test_a_version_changes_with_the_content(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"1")
    first = place(path).version()
    assert place(path).version() == first
    path.write_bytes(b"22")
    assert place(path).version() != first
    (tmp_path / "link").symlink_to(path)
    assert place(tmp_path / "link").version() == place(path).version()


def test_the_etag_is_the_version_where_there_is_one() -> None:
    assert version_of({"ETag": '"abc"', "size": 1, "LastModified": "today"}) == "abc"
    assert version_of({"size": 1, "LastModified": "today"}) == "today-1"
    assert version_of({"size": 1}) == "-1"
