"""SQL over the results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from s3fs import S3FileSystem
from support.results import failed, segmented, write_output

from pipeline.analysis.sql import connect
from pipeline.schema import RESULTS, image_id
from pipeline.storage import Place, place


def check_views(output: Place, rows: list[dict]) -> None:
    """Checks that the three views hold the rows."""
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


def test_views_of_an_output_on_s3(bucket: tuple[S3FileSystem, str], rows: list[dict], output: Place) -> None:
    fs, name = bucket
    fs.put(output.path, f"{name}/out", recursive=True)
    check_views(place(f"s3://{name}/out"), rows)


@pytest.mark.parametrize("name", ["it's mine", "plate[1]", "a*b", "Zellkerne größer"])
def test_views_of_a_folder_with_a_difficult_name(name: str, rows: list[dict], tmp_path: Path) -> None:
    write_output(tmp_path / name.replace("*", "x").replace("[1]", "1"), rows[:2])  # a pattern would match this
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
    with connect(output) as connection:
        assert connection.sql("select kind, reason from errors").fetchall() == [("Lost", "")]


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
