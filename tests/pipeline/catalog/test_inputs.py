"""Resolving INPUTs into containers."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest
from s3fs import S3FileSystem
from support.containers import containers

from pipeline.catalog import s3_listing
from pipeline.catalog.inputs import find_containers
from pipeline.errors import InputError
from pipeline.storage import Place, place
from pipeline.storage.suffixes import input_kind


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


def test_a_folder_is_listed_recursively_and_other_files_are_skipped(tree: Path, tmp_path: Path) -> None:
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
def test_globs_and_braces(tree: Path, tmp_path: Path, url: str, expected: list[str]) -> None:
    assert names(containers([place(tree / url)], place(tmp_path / "out")), tree) == expected


def test_an_object_named_twice_counts_once_and_the_output_is_skipped(tree: Path) -> None:
    (tree / "out").mkdir()
    (tree / "out" / "picture.png").write_bytes(b"x")
    found = containers([place(tree), place(tree / "deep")], place(tree / "out"))
    assert len(found) == len({c.url for c in found}) == 7


def test_the_pattern_selects_images_by_file_name_and_keeps_shards(tree: Path, tmp_path: Path) -> None:
    found = names(containers([place(tree)], place(tmp_path / "out"), "*_w1.tif"), tree)
    assert found == ["deep/d_w1.tif", "shard-000.tar", "shard-001.tar"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("nothing-here", "no such file"), ("*.gif", "nothing matches"), ("readme.md", "no images or shards")],
)
def test_an_unusable_input_is_named_in_the_error(tree: Path, tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        containers([place(tree / name)], place(tmp_path / "out"))
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_paths_of_a_brace_expansion_are_named(tree: Path, tmp_path: Path) -> None:
    def said(name: str) -> str:
        with pytest.raises(InputError) as caught:
            containers([place(tree / name)], place(tmp_path / "out"))
        return str(caught.value)

    end = ": no such file, folder or prefix: check the spelling"
    assert said("shard-{000..002}.tar") == f"{tree}/shard-002.tar{end}"
    assert said("shard-{002,000}.tar") == f"{tree}/shard-002.tar{end}"
    names = ", ".join(f"{tree}/shard-00{i}.tar" for i in range(2, 7))
    assert said("shard-{000..009}.tar") == f"{names} and 3 more{end}"


def test_kind_comes_from_the_suffix() -> None:
    kinds = [input_kind(n) for n in ("x.JPG", "x.tar", "x.txt", "x", "x.tar.png")]
    assert kinds == ["image", "tar", None, None, "image"]
    assert [input_kind(n) for n in ("x.tgz", "x.TAR.GZ", "x.gz", "x.parquet")] == ["tgz", "tgz", None, "parquet"]


def test_existing_names_with_brackets_are_taken_literally(tmp_path: Path) -> None:
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


KEYS = (
    [f"in/flat-{i:02d}.png" for i in range(3)]
    + [f"in/many/p{i:02d}.png" for i in range(23)]
    + [f"in/a/b{i}/c/{k}.jpg" for i in range(4) for k in "xyz"]
    + [f"in/wide/{i:02d}/im.png" for i in range(21)]
    + ["in/s.tar", "in/notes.txt", "in/é ü/q+1 %.png", "out/other.png", "input.png"]
)


@pytest.mark.slow
def test_a_prefix_of_a_bucket_is_listed_completely_page_by_page(
    bucket: tuple[S3FileSystem, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fs, name = bucket
    fs.pipe({f"{name}/{key}": key.encode() for key in KEYS})
    output = place(f"s3://{name}/out")

    def found(url: str, pattern: str | None = None) -> list[str]:
        return [c.url.removeprefix(f"s3://{name}/") for c in containers([place(f"s3://{name}/{url}")], output, pattern)]

    wanted = sorted(k for k in KEYS if k.startswith("in/") and k != "in/notes.txt")
    for page in (4, 1000):
        monkeypatch.setattr(s3_listing, "PAGE", page)
        assert found("in") == wanted
        assert found("") == sorted([*wanted, "input.png"])  # but not what is in the output
        assert found("in/a/*/c/y.jpg") == [f"in/a/b{i}/c/y.jpg" for i in range(4)]
        assert found("in/*/b[12]") == [k for k in wanted if k.startswith(("in/a/b1", "in/a/b2"))]
        assert found("in/**/im.png") == [k for k in wanted if k.endswith("im.png")]
        assert found("in/flat-{00..02}.png") == wanted_of("in/flat", wanted)
        assert found("in/{many,a}") == sorted(wanted_of("in/many", wanted) + wanted_of("in/a/", wanted))
        assert found("in", "p0*.png") == sorted(["in/s.tar", *wanted_of("in/many/p0", wanted)])
    infos = {c.url.removeprefix("s3://"): c for c in containers([place(f"s3://{name}/in")], output)}
    for path in (f"{name}/in/s.tar", f"{name}/in/é ü/q+1 %.png", f"{name}/in/many/p05.png"):
        assert infos[path].version == fs.info(path)["ETag"].strip('"')
        assert infos[path].size == fs.size(path)
        assert Place(f"s3://{path}").version() == infos[path].version


def wanted_of(prefix: str, keys: list[str]) -> list[str]:
    return [k for k in keys if k.startswith(prefix)]


def test_another_store_is_listed_folder_by_folder() -> None:
    fs = fsspec.filesystem("memory")
    for key in ("in/a.png", "in/deep/er/b.jpg", "in/deep/c.txt", "in/s.tgz"):
        fs.pipe_file(f"/store/{key}", b"1")
    try:
        output = place("memory://store/out")
        assert [c.url for c in containers([place("memory://store/in")], output)] == [
            "memory://store/in/a.png",
            "memory://store/in/deep/er/b.jpg",
            "memory://store/in/s.tgz",
        ]
        assert len(containers([place("memory://store/in/**/*.jpg")], output)) == 1
    finally:
        fs.rm("/store", recursive=True)


def test_the_second_input_is_checked_before_the_first_is_listed(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tpyo"):
        find_containers([place(tree), place(tree / "tpyo")], place(tmp_path / "out"))
