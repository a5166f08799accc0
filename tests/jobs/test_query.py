"""`maskfleet query`: what it prints, writes and refuses."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import typer
from click.testing import Result
from support.results import failed, perfect, segmented, subset, write_output
from typer.testing import CliRunner

from jobs.query import query

app = typer.Typer(rich_markup_mode="rich")
app.command()(query)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def output(annotations: dict, tmp_path_factory: pytest.TempPathFactory) -> str:
    rows = [
        *perfect(subset(annotations, 3)),
        segmented("s3://lab/empty.png", 8, 8, []),
        failed("s3://lab/[red]cut.png", "DamagedImage: truncated"),
    ]
    return write_output(tmp_path_factory.mktemp("query") / "out", rows).url


def test_a_table_is_the_default(output: str) -> None:
    result = run(output, "select category, count(*) as n, max(score) as best from instances group by all")
    assert result.exit_code == 0
    heading, row = result.stdout.split("\n")[:2]
    assert heading.split() == ["category", "n", "best"]
    assert row.split()[0] == "nucleus"
    assert int(row.split()[1]) > 200


def test_a_table_shows_50_rows_and_a_note(output: str) -> None:
    result = run(output, "select * from instances")
    assert len(result.stdout.strip().split("\n")) == 51
    assert "first 50 rows" in result.stderr
    assert "first 50 rows" not in run(output, "select * from instances limit 50").stderr


def test_a_table_shortens_long_values_and_keeps_names_whole_in_a_pipe(output: str) -> None:
    result = run(output, "select image_id, uri, bbox_x, bbox_y, area, repeat('x', 500) as long from instances limit 1")
    assert result.stdout.split("\n")[0].split() == ["image_id", "uri", "bbox_x", "bbox_y", "area", "long"]
    assert "x" * 40 in result.stdout
    assert "x" * 60 not in result.stdout
    assert "…" in result.stdout


def test_brackets_are_not_markup(output: str) -> None:
    assert "s3://lab/[red]cut.png" in run(output, "select uri, reason from errors").stdout


def test_csv(output: str) -> None:
    sql = "select uri, width, error, score from images order by score is null, len(score), uri limit 2"
    result = run(output, sql, "--format", "csv")
    read = list(csv.DictReader(io.StringIO(result.stdout)))
    assert read[0] == {"uri": "s3://lab/empty.png", "width": "8", "error": "", "score": "[]"}
    assert json.loads(read[1]["score"])[0] == 1.0


@pytest.mark.parametrize("options", [["--json"], ["--format", "json"]])
def test_json_is_one_document(output: str, options: list[str]) -> None:
    sql = """select sum(area) as pixels, avg(area) as mean, 'NaN'::double as nothing, date '2026-01-02' as day,
             list(category)[:1] as names, 1.50::decimal(9, 2) as price, null as missing from instances"""
    (row,) = json.loads(run(output, sql, *options).stdout)
    assert isinstance(row["pixels"], int)
    assert row["mean"] > 1
    assert row | {"pixels": 0, "mean": 0} == {
        "pixels": 0,
        "mean": 0,
        "nothing": None,
        "day": "2026-01-02",
        "names": ["nucleus"],
        "price": 1.5,
        "missing": None,
    }


def test_no_rows_are_an_empty_document(output: str) -> None:
    assert json.loads(run(output, "select * from images where width > 99999", "--json").stdout) == []


def test_parquet_goes_to_a_file(output: str, tmp_path: Path) -> None:
    path = tmp_path / "flat.parquet"
    assert run(output, "from instances", "--to", path).exit_code == 0
    table = pq.read_table(path)
    assert table.num_rows > 200
    assert table.column_names[-1] == "rle"


@pytest.mark.parametrize("name", ["all.csv", "all.JSON"])
def test_the_suffix_chooses_the_format(name: str, output: str, tmp_path: Path) -> None:
    result = run(output, "select uri from images order by uri", "--to", tmp_path / name)
    assert (result.exit_code, result.stdout) == (0, "")
    text = (tmp_path / name).read_text()
    uris = [r["uri"] for r in (json.loads(text) if name.endswith("JSON") else csv.DictReader(io.StringIO(text)))]
    assert len(uris) == 5
    assert "s3://lab/[red]cut.png" in uris


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--format", "parquet"], "--to FILE.parquet"),
        (["--to", "x.txt"], "--format"),
        (["--format", "csv", "--json"], "contradict"),
        (["--format", "table", "--to", "x.csv"], "terminal"),
        (["--format", "csv", "--to", "missing/x.csv"], "No such file"),
        (["--to", "missing/x.parquet"], "missing/x.parquet"),
    ],
)
def test_options_that_contradict_are_refused(options: list[str], reason: str, output: str) -> None:
    result = run(output, "select 1 as one", *options)
    assert result.exit_code == 2
    assert reason in result.stderr


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("selct * from images", 'syntax error at or near "selct"'),
        ("select label from instances", '"label" not found'),
        ("select cast(uri as int) from images", "Could not convert"),
        ("/* nothing */", "no SQL statement"),
        ("select * from masks", "masks"),
    ],
)
def test_an_sql_error_is_one_line_and_the_columns_of_the_views(sql: str, reason: str, output: str) -> None:
    result = run(output, sql)
    assert result.exit_code == 2
    assert reason in result.stderr.split("\n")[0]
    assert "  images: image_id, uri, width, height, error, category_id" in result.stderr
    assert "  errors: image_id, uri, error, kind, reason" in result.stderr
    assert result.stdout == ""


def test_columns_with_the_same_name_are_refused_in_json(output: str) -> None:
    result = run(output, "select 1 as a, 2 as a", "--json")
    assert result.exit_code == 2
    assert "select a as b" in result.stderr


def test_without_sql_it_shows_the_views(output: str) -> None:
    result = run(output)
    assert "images: 5 rows" in result.stdout
    assert "errors: 1 rows" in result.stdout
    assert "bbox_w" in result.stdout
    views = json.loads(run(output, "--json").stdout)
    assert views["images"]["rows"] == 5
    assert views["instances"]["columns"]["rle"] == "VARCHAR"


def test_a_folder_without_an_output_is_one_line(tmp_path: Path) -> None:
    result = run(tmp_path, "select 1")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {tmp_path} is not an output")


def test_help_shows_queries_that_work(output: str) -> None:
    text = " ".join(run("--help").stdout.split())
    for sql in (
        "select category, count(*), avg(area) from instances where score > 0.7 group by all",
        "select uri, len(score) as n from images order by n desc limit 10",
        "select * from instances where area > 5000",
    ):
        assert sql in text
        assert run(output, sql).exit_code == 0
