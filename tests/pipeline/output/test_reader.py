"""Reading an output back from its files alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from s3fs import S3FileSystem
from support.results import failed, perfect, segmented, subset, table, write_output, write_run

from pipeline.errors import InputError
from pipeline.output.reader import connect, counts, description, results_dataset, run_records
from pipeline.schema import RESULTS, image_id
from pipeline.storage import Place, place


@pytest.fixture(scope="module")
def rows(annotations: dict) -> list[dict]:
    """Six images of nuclei, an empty one and three that failed."""
    good = perfect(subset(annotations, 6))
    empty = segmented("s3://lab/plates/empty.png", 64, 48, [])
    bad = [
        failed("s3://lab/plates/cut.png", "DamagedImage: truncated: 12 bytes of 90"),
        failed("s3://lab/plates/html.jpg", "DamagedImage: not an image"),
        failed("s3://lab/plates/large.tif", "TooLarge: 4000000000 pixels", 80000, 50000),
    ]
    return [*good, empty, *bad]


@pytest.fixture
def output(rows: list[dict], tmp_path: Path) -> Place:
    return write_output(tmp_path / "out", rows, waiting=["s3://lab/plates/later.png"])


def test_counts_come_from_the_files(output: Place, rows: list[dict]) -> None:
    now = counts(output)
    assert (now.catalogued, now.done, now.failed, now.left) == (11, 10, 3, 1)
    assert now.instances == sum(len(row["rle"]) for row in rows if row["rle"])
    assert list(now.errors.items()) == [("DamagedImage", 2), ("TooLarge", 1)]


def test_counts_without_statistics_still_find_the_errors(rows: list[dict], tmp_path: Path) -> None:
    now = counts(write_output(tmp_path, rows, write_statistics=False))
    assert now.instances is None
    assert now.errors == {"DamagedImage": 2, "TooLarge": 1}


def test_counts_before_the_first_result(tmp_path: Path) -> None:
    now = counts(write_output(tmp_path, [], waiting=["a.png", "b.png"]))
    assert (now.catalogued, now.done, now.failed, now.left, now.instances, now.errors) == (2, 0, 0, 2, 0, {})


@pytest.mark.parametrize("kept", [0, 3, 0.5, 0.99])
def test_a_file_that_is_still_being_written_is_left_out(output: Place, rows: list[dict], kept: float) -> None:
    whole = Path(output.path, "results", "0.parquet").read_bytes()
    Path(output.path, "results", "9.parquet").write_bytes(whole[: int(kept * len(whole)) if kept < 1 else kept])
    assert counts(output).done == len(rows)
    assert results_dataset(output).count_rows() == len(rows)
    assert description(output)["weights"] == "nuclei"
    with connect(output) as connection:
        assert connection.sql("select count(*) from images").fetchall() == [(len(rows),)]


def test_a_damaged_footer_is_reported_with_its_file(output: Place) -> None:
    path = Path(output.path, "results", "0.parquet")
    data = bytearray(path.read_bytes())
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    data[start : start + 200] = bytes([0xFF]) * 200
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"0\.parquet"):
        counts(output)


def test_the_dataset_has_the_schema_of_the_results(output: Place, rows: list[dict]) -> None:
    read = results_dataset(output).to_table()
    assert read.schema.equals(RESULTS)
    by_uri = {row["uri"]: row for row in read.to_pylist()}
    assert by_uri == {row["uri"]: row for row in table(rows).to_pylist()}


def test_a_row_decodes_with_pycocotools_as_it_stands(output: Place, annotations: dict) -> None:
    row = next(r for r in results_dataset(output).to_table().to_pylist() if r["rle"])
    mask = coco_mask.decode({"size": [row["height"], row["width"]], "counts": row["rle"][0]})
    assert mask.shape == (row["height"], row["width"])
    assert mask.sum() == row["area"][0]


def test_description_is_the_metadata_of_the_files(output: Place) -> None:
    assert description(output) == {
        "schema_version": 1,
        "weights": "nuclei",
        "classes": {"1": "nucleus"},
        "max_detections": 500,
    }


def test_run_records_oldest_first(output: Place) -> None:
    assert run_records(output) == []
    write_run(output, "b", "2026-01-01T10:00:00+00:00")
    write_run(output, "a", "2026-01-02T10:00:00+00:00")
    assert [r["run"] for r in run_records(output)] == ["b", "a"]


@pytest.mark.parametrize("read", [counts, results_dataset, description, connect])
def test_a_folder_that_is_no_output_says_so(read: object, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is no output of maskfleet segment .* maskfleet segment INPUT"):
        read(place(tmp_path))
    with pytest.raises(InputError, match="check the spelling"):
        read(place(tmp_path / "missing"))


@pytest.mark.parametrize("read", [results_dataset, description, connect])
def test_an_output_without_results_says_so(read: object, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no results yet"):
        read(write_output(tmp_path, [], waiting=["a.png"]))


def check_views(output: Place, rows: list[dict]) -> None:
    """The three views hold what the rows say."""
    with connect(output) as connection:
        images = connection.sql("select * from images").to_arrow_table()
        assert images.column_names == RESULTS.names
        assert set(images["uri"].to_pylist()) == {row["uri"] for row in rows}
        flat = connection.sql("select * from instances").to_arrow_table().to_pylist()
        columns = "image_id uri width height category_id category score bbox_x bbox_y bbox_w bbox_h area rle"
        assert list(flat[0]) == columns.split()
        expected = [
            {
                **{k: row[k] for k in ("image_id", "uri", "width", "height")},
                **dict(zip(("bbox_x", "bbox_y", "bbox_w", "bbox_h"), row["bbox"][i], strict=True)),
                **{k: row[k][i] for k in ("category_id", "category", "score", "area", "rle")},
            }
            for row in rows
            if row["error"] is None
            for i in range(len(row["rle"]))
        ]
        assert sorted(flat, key=lambda r: (r["uri"], -r["score"])) == sorted(
            expected, key=lambda r: (r["uri"], -r["score"])
        )
        errors = connection.sql("select * from errors order by uri").fetchall()
        uri = "s3://lab/plates/cut.png"
        assert errors[0] == (
            image_id(uri),
            uri,
            "DamagedImage: truncated: 12 bytes of 90",
            "DamagedImage",
            "truncated: 12 bytes of 90",
        )
        assert len(errors) == 3


def test_views(output: Place, rows: list[dict]) -> None:
    check_views(output, rows)


@pytest.mark.parametrize("name", ["it's mine", "plate[1]", "a*b", "Zellkerne größer"])
def test_views_of_a_folder_with_a_difficult_name(name: str, rows: list[dict], tmp_path: Path) -> None:
    write_output(tmp_path / name.replace("*", "x").replace("[1]", "1"), rows[:2])  # what a pattern would find
    check_views(write_output(tmp_path / name, rows), rows)


@pytest.mark.parametrize("name", ["plain", "read-as-a-dataset[1]"])
def test_a_query_reads_only_the_columns_it_names(name: str, rows: list[dict], tmp_path: Path) -> None:
    with connect(write_output(tmp_path / name, rows)) as connection:
        sql = "explain select category, count(*) from instances where score > 0.5 group by category"
        plan = connection.sql(sql).fetchall()[0][1]
    scan = plan[plan.rindex("Projections:") :]
    assert "category" in scan
    assert "score" in scan
    for column in ("rle", "bbox", "area", "uri"):
        assert column not in scan


def test_an_error_without_a_colon_is_its_own_kind(tmp_path: Path) -> None:
    output = write_output(tmp_path, [failed("a.png", "Lost")])
    assert counts(output).errors == {"Lost": 1}
    with connect(output) as connection:
        assert connection.sql("select kind, reason from errors").fetchall() == [("Lost", "")]


def test_everything_from_s3(bucket: tuple[S3FileSystem, str], rows: list[dict], output: Place, tmp_path: Path) -> None:
    fs, name = bucket
    write_run(output, "a", "2026-01-02T10:00:00+00:00")
    fs.put(output.path, f"{name}/out", recursive=True)
    stored = place(f"s3://{name}/out")
    assert counts(stored) == counts(output)
    assert description(stored) == description(output)
    assert run_records(stored) == run_records(output)
    check_views(stored, rows)
    with pytest.raises(InputError, match="is no output"):
        counts(place(f"s3://{name}/elsewhere"))


def test_a_column_from_s3_does_not_cost_the_file(
    bucket: tuple[S3FileSystem, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    noise = [{"score": 0.5, "bbox": [0, 0, 1, 1], "rle": generator.bytes(60).hex()} for _ in range(16_000)]
    rows = [segmented(f"{n}.png", 4, 4, []) for n in range(400)]
    for n, row in enumerate(rows):
        part = noise[n * 40 : n * 40 + 40]
        row |= {k: [i[k] for i in part] for k in ("score", "bbox", "rle")}
        row |= {"category_id": [1] * 40, "category": ["nucleus"] * 40, "area": [1] * 40}
    fs, name = bucket
    fs.put(write_output(tmp_path, rows, files=1).path, f"{name}/out", recursive=True)
    fetched = 0
    call = S3FileSystem._call_s3

    async def counted(self: S3FileSystem, method: str, *args: object, **kwargs: object) -> object:
        nonlocal fetched
        if method == "get_object":
            first, last = str(kwargs["Range"]).removeprefix("bytes=").split("-")
            fetched += int(last) - int(first) + 1
        return await call(self, method, *args, **kwargs)

    monkeypatch.setattr(S3FileSystem, "_call_s3", counted)
    with connect(place(f"s3://{name}/out")) as connection:
        assert connection.sql("select count(*) from instances where score >= 0.5").fetchall() == [(16_000,)]
    size = fs.size(f"{name}/out/results/0.parquet")
    assert size > 500_000
    assert fetched < size / 4


def test_a_store_that_cannot_be_reached_is_one_line() -> None:
    quickly = {"retries": {"max_attempts": 0}, "connect_timeout": 1}
    options = {"endpoint_url": "http://127.0.0.1:9", "key": "a", "secret": "b", "config_kwargs": quickly}
    nowhere = place("s3://bucket/out", options)
    with pytest.raises(InputError, match="cannot be reached") as caught:
        counts(nowhere)
    assert "\n" not in str(caught.value)
