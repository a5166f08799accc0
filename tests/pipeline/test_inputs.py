"""Which objects an INPUT names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.inputs import Container
from pipeline.inputs import containers as batches
from pipeline.kinds import kind_of
from pipeline.listing import braces
from pipeline.storage import place


def containers(*arguments: Any, **options: Any) -> list[Container]:
    """All containers, each once, by address."""
    found = {c.url: c for batch in batches(*arguments, **options) for c in batch}
    return sorted(found.values(), key=lambda c: c.url)


def names(found: list, root: Path) -> list[str]:
    return [c.url.removeprefix(f"{root}/") for c in found]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "in"
    for name in (
        "a.jpg",
        "b.JPEG",
        "deep/c.png",
        "deep/d_w1.tif",
        "notes.txt",
        "readme.md",
        "shard-000.tar",
        "shard-001.tar",
        "é.webp",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" * len(name))
    return root


def test_a_folder_is_read_to_its_depth_and_other_files_are_passed_over(tree: Path, tmp_path: Path) -> None:
    found = containers([place(tree)], place(tmp_path / "out"))
    expected = ["a.jpg", "b.JPEG", "deep/c.png", "deep/d_w1.tif", "shard-000.tar", "shard-001.tar", "é.webp"]
    assert names(found, tree) == expected
    assert [c.kind for c in found] == ["image"] * 4 + ["tar"] * 2 + ["image"]
    assert all(c.version for c in found)
    assert found[0].size == len("a.jpg")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("shard-{000..001}.tar", ["shard-000.tar", "shard-001.tar"]),
        ("shard-*.tar", ["shard-000.tar", "shard-001.tar"]),
        ("{a.jpg,deep}", ["a.jpg", "deep/c.png", "deep/d_w1.tif"]),
        ("**/*.png", ["deep/c.png"]),
        ("é.webp", ["é.webp"]),
    ],
)
def test_globs_andbraces(tree: Path, tmp_path: Path, url: str, expected: list[str]) -> None:
    assert names(containers([place(tree / url)], place(tmp_path / "out")), tree) == expected


def test_an_object_named_twice_counts_once_and_the_output_is_left_out(tree: Path) -> None:
    (tree / "out").mkdir()
    (tree / "out" / "picture.png").write_bytes(b"x")
    found = containers([place(tree), place(tree / "deep")], place(tree / "out"))
    assert len(found) == len({c.url for c in found}) == 7


def test_pattern_chooses_images_by_file_name_and_leaves_shards(tree: Path, tmp_path: Path) -> None:
    found = names(containers([place(tree)], place(tmp_path / "out"), "*_w1.tif"), tree)
    assert found == ["deep/d_w1.tif", "shard-000.tar", "shard-001.tar"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("nothing-here", "no such file"), ("*.gif", "nothing matches"), ("readme.md", "no images or shards")],
)
def test_what_cannot_be_used_is_named_with_the_remedy(tree: Path, tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        containers([place(tree / name)], place(tmp_path / "out"))
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.integers(0, 200), st.integers(0, 50), st.integers(1, 5))
def test_braces_expand_as_in_a_shell(first: int, count: int, width: int) -> None:
    text = f"s-{first:0{width}d}..{first + count:0{width}d}"
    got = braces("s-{" + text[2:] + "}.tar")
    padded = len(str(first)) < width  # a shell pads when the first bound is written with zeros
    expected = [f"s-{n:0{width}d}.tar" if padded else f"s-{n}.tar" for n in range(first, first + count + 1)]
    assert got == expected


def test_kind_comes_from_the_suffix() -> None:
    assert [kind_of(n) for n in ("x.JPG", "x.tar", "x.txt", "x", "x.tar.png")] == ["image", "tar", None, None, "image"]
    assert [kind_of(n) for n in ("x.tgz", "x.TAR.GZ", "x.gz", "x.parquet")] == ["tgz", "tgz", None, "parquet"]


def test_names_with_brackets_mean_themselves_where_they_exist(tmp_path: Path) -> None:
    root = tmp_path / "in"
    root.mkdir()
    for name in ("p[1].png", "a{b}.png", "img{1.png"):
        (root / name).touch()
        assert names(containers([place(root / name)], place(tmp_path / "out")), root) == [name]
    with pytest.raises(InputError, match="braces"):
        containers([place(root / "x{1.png")], place(tmp_path / "out"))


def test_links_are_followed_but_not_in_circles(tree: Path, tmp_path: Path) -> None:
    root = tmp_path / "links"
    root.mkdir()
    (root / "one.png").symlink_to(tree / "deep" / "c.png")
    (root / "more").symlink_to(tree / "deep")
    (tree / "deep" / "back").symlink_to(tree / "deep")
    found = names(containers([place(root)], place(tmp_path / "out")), root)
    assert found == ["more/c.png", "more/d_w1.tif", "one.png"]
    assert not [c for c in containers([place(tree)], place(tmp_path / "out")) if "back" in c.url]
