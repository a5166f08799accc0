"""`maskfleet segment`: a folder or a bucket in, Parquet out, and what it refuses."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from s3fs import S3FileSystem
from support.commands import Segmented, maskfleet, options_for, results, segment

from jobs.sample.s3_server import S3Server
from model import load_model
from pipeline.schema import RESULTS, description_of


def test_each_image_is_one_row_with_masks_or_a_reason(mixed: Segmented) -> None:
    rows = {Path(r["uri"]).name: r for r in results(mixed.output)}
    assert sorted(rows) == sorted(p.name for p in mixed.inputs.iterdir())
    errors = {name: r["error"] for name, r in rows.items() if r["error"]}
    assert sorted(errors) == ["text.jpg", "truncated.jpg", "zero.jpg"]
    assert errors["zero.jpg"].startswith("EmptyFile: ")
    assert errors["text.jpg"].startswith("NotAnImage: ")
    assert errors["truncated.jpg"].startswith("DamagedImage: ")
    assert mixed.record["errors"] == {"EmptyFile": 1, "NotAnImage": 1, "DamagedImage": 1}
    assert 0 < mixed.record["batch_fill"] <= 1
    assert 0 <= mixed.record["padding_waste"] < 0.1
    for name, row in rows.items():
        if name in errors:
            assert all(row[c] is None for c in ("category_id", "category", "score", "bbox", "area", "rle"))
            continue
        assert row["score"], name
        assert row["score"] == sorted(row["score"], reverse=True)
        for counts, area, (x, y, w, h) in zip(row["rle"], row["area"], row["bbox"], strict=True):
            mask = coco_mask.decode({"size": [row["height"], row["width"]], "counts": counts})
            assert mask.shape == (row["height"], row["width"])
            assert mask.sum() == area
            inside = mask[max(0, int(y) - 2) : int(y + h) + 3, max(0, int(x) - 2) : int(x + w) + 3]
            assert inside.sum() == area


def test_files_have_the_schema_and_say_what_made_them(slides: Segmented) -> None:
    schema = pads.dataset(str(slides.output / "results"), format="parquet").schema
    assert schema.remove_metadata().equals(RESULTS)
    description = description_of(schema)
    assert description["schema_version"] == 1
    assert description["classes"] == {"1": "nucleus"}
    assert len(description["weights_sha256"]) == 64


def test_a_row_is_what_the_network_predicts(slides: Segmented) -> None:
    row = next(r for r in results(slides.output) if r["uri"].endswith("small.png"))
    found = load_model("nuclei").predict([np.asarray(Image.open(row["uri"]).convert("RGB")).copy()])[0]
    assert len(found) == len(row["score"]) > 0
    np.testing.assert_allclose(row["score"], found.scores.numpy(), atol=1e-5)
    corners = [[x, y, x + w, y + h] for x, y, w, h in row["bbox"]]
    np.testing.assert_allclose(corners, found.boxes.numpy(), atol=1e-3)


@pytest.mark.parametrize(
    ("other", "named"), [(("--min-score", 0.9), "min_score 0.1 -> 0.9"), (("--tile", 256), "tiling")]
)
def test_other_settings_on_the_same_output_are_refused(
    other: tuple, named: str, quick: tuple, mixed: Segmented
) -> None:
    done = maskfleet("segment", mixed.inputs, mixed.output, *quick, *other)
    assert done.exit_code == 1
    assert named in done.stderr


def test_s3_tars_and_loose_files(local_ray: None, quick: tuple, plate: Path, bucket: tuple[S3FileSystem, str]) -> None:
    s3, name = bucket
    images = sorted(plate.iterdir())
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in images[:4]:
            tar.add(path, arcname=f"w1/{path.name}")
    s3.pipe_file(f"{name}/shards/a-000.tar", buffer.getvalue())
    for path in images[4:]:
        s3.pipe_file(f"{name}/plates/ü {path.name}", path.read_bytes())
    output = f"s3://{name}/masks"
    record = segment(f"s3://{name}/shards/a-{{000..000}}.tar", f"s3://{name}/plates", output, *quick)
    assert (record["done"], record["failed"], record["catalogued"]) == (6, 0, 6)
    files = [f for f in s3.find(f"{name}/masks/results") if f.endswith(".parquet")]
    table = pads.dataset(files, filesystem=pa.fs.PyFileSystem(pa.fs.FSSpecHandler(s3)), format="parquet").to_table()
    uris = {f"s3://{name}/shards/a-000.tar#w1/{p.name}" for p in images[:4]}
    uris |= {f"s3://{name}/plates/ü {p.name}" for p in images[4:]}
    assert set(table["uri"].to_pylist()) == uris
    assert segment(f"s3://{name}/plates", output, *quick)["images_to_do"] == 0
    text = json.dumps(record) + str(table.schema.metadata)
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in text


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        (["{missing}", "{out}"], "no such file, folder or prefix", 1),
        (["{empty}", "{out}"], "no images or shards here", 1),
        (["{plate}", "{out}", "--weights", "resnet"], "no weights named 'resnet' and no such file; shipped: nuclei", 1),
        (["{plate}", "{out}", "--weights", "{text}"], "neither safetensors nor a torch checkpoint", 1),
        (["{plate}", "{out}", "--precision", "fp8"], "precision 'fp8' is none of auto", 1),
        (["{plate}", "{out}", "--workers", "many"], "give a number or MIN,MAX", 2),
        (["{plate}"], "name at least one INPUT and, last, the OUTPUT", 2),
        (["{plate}", "/proc/nowhere/out"], "/proc/nowhere/out", 1),
        (["ftpx://host/x", "{out}"], "ftpx://host/x", 1),
    ],
)
def test_wrong_input_is_one_line_before_ray(
    arguments: list[str], message: str, status: int, plate: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("not weights, only words, and enough of them")
    names = {k: str(tmp_path / k) for k in ("missing", "empty", "out", "text")} | {"plate": str(plate)}
    done = maskfleet("segment", *(a.format(**names) for a in arguments))
    assert done.exit_code == status, done.output
    assert message in done.stderr
    assert "starting Ray" not in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("error:")]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("wrong", ["bucket", "secret", "endpoint"])
def test_s3_that_cannot_be_used_is_one_line_without_the_secret(
    wrong: str, bucket: tuple[S3FileSystem, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, name = bucket
    S3FileSystem.clear_instance_cache()  # of clients with the right keys
    if wrong == "secret":
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    if wrong == "endpoint":
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    url = "s3://no-such-bucket/x" if wrong == "bucket" else f"s3://{name}/x"
    done = maskfleet("segment", url, tmp_path / "out")
    S3FileSystem.clear_instance_cache()
    expected = {"bucket": "no such", "secret": "access denied", "endpoint": "cannot be reached"}[wrong]
    assert done.exit_code == 1
    assert expected in done.stderr
    assert url in done.stderr
    assert "Traceback" not in done.stderr
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("to", ["s3", "a disk"])
def test_storage_options_reach_the_weights(
    to: str,
    tiny_weights: Path,
    s3_server: S3Server,
    bucket: tuple[S3FileSystem, str],
    plate: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    s3, name = bucket
    s3.put(str(tiny_weights), f"{name}/tiny.safetensors")
    given = options_for(dict(os.environ))
    for variable in s3_server.environment:
        monkeypatch.delenv(variable)
    S3FileSystem.clear_instance_cache()  # of clients with the keys of the environment
    output = f"s3://{name}/out" if to == "s3" else tmp_path / "out"
    weights = f"s3://{name}/tiny.safetensors"
    arguments = ("segment", plate, output, "--weights", weights, "--plan", "--limit", 1, "--json")
    assert "cannot read weights" in maskfleet(*arguments).stderr
    assert json.loads(maskfleet(*arguments, *given).stdout)["sample"]["images"] == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("min_scor: 0.5", "unknown option min_scor; known: weights"),
        ("min-score: high", "--min-score"),
        ("limit: 0", "--limit"),
        ("set: [1]", "set is a mapping of preset fields"),
        ("- 1", "is not a mapping of options"),
        ("a: [", "is not YAML"),
        ("set: {min_size: big}", "preset field min_size cannot be 'big'"),
        ("set: {min_sise: 3}", "unknown preset field min_sise"),
        ("weights: nothing", "no weights named 'nothing'"),
    ],
)
def test_config_files_are_checked_like_the_command_line(
    content: str, message: str, plate: Path, tmp_path: Path
) -> None:
    config = tmp_path / "job.yaml"
    config.write_text(content)
    done = maskfleet("segment", plate, tmp_path / "out", "--config", config)
    assert done.exit_code in (1, 2)
    assert message in " ".join(done.stderr.replace("│", " ").split())
    assert "starting Ray" not in done.stderr


def test_the_command_line_goes_before_the_config_file(plate: Path, tmp_path: Path) -> None:
    config = tmp_path / "job.yaml"
    config.write_text("weights: from-the-file")
    done = maskfleet("segment", plate, tmp_path / "out", "--config", config, "--weights", "from-the-line")
    assert "no weights named 'from-the-line'" in done.stderr


def test_a_slide_in_tiles_is_one_row(slides: Segmented) -> None:
    rows = {Path(r["uri"]).name: r for r in results(slides.output)}
    assert sorted(rows) == ["channels.tif", "cut.tif", "slide.tif", "slide16.png", "small.png"]
    assert slides.record["errors"] == {"DamagedImage": 1}
    assert rows["cut.tif"]["error"].startswith("DamagedImage")

    found = rows["slide.tif"]
    assert (found["width"], found["height"]) == (512, 700)
    assert found["score"] == sorted(found["score"], reverse=True)
    masks = [coco_mask.decode({"size": [700, 512], "counts": c}) for c in found["rle"]]
    assert [int(m.sum()) for m in masks] == found["area"]
    for mask, (x, y, w, h) in zip(masks, found["bbox"], strict=True):
        rows_, columns = np.nonzero(mask)
        assert len(rows_) == 0 or (columns.min() >= x - 3 and columns.max() <= x + w + 3 and rows_.max() <= y + h + 3)
    # Every picture alone, at the same scale: nuclei away from its edges are found again, once.
    network = load_model("nuclei")
    pixels = np.array(Image.open(slides.inputs / "slide.tif").convert("RGB"))
    matched = total = 0
    for y in (0, 256):
        alone = network.predict([pixels[y : y + 256, :256]])[0]
        for box, score in zip(alone.boxes.tolist(), alone.scores.tolist(), strict=True):
            if score > 0.8 and min(box) > 8 and max(box) < 248:
                total += 1
                inside = [b for b in found["bbox"] if overlap(b, [box[0], box[1] + y, box[2], box[3] + y]) > 0.6]
                matched += len(inside) == 1
    assert total > 10
    assert matched >= 0.9 * total
    assert len(rows["slide16.png"]["score"]) > 10
    assert len(rows["channels.tif"]["score"]) > 10
    assert rows["small.png"]["score"]


def overlap(xywh: list[float], xyxy: list[float]) -> float:
    """IoU of two boxes."""
    a = [xywh[0], xywh[1], xywh[0] + xywh[2], xywh[1] + xywh[3]]
    w, h = (max(0.0, min(a[k + 2], xyxy[k + 2]) - max(a[k], xyxy[k])) for k in (0, 1))
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (a, xyxy)]
    return w * h / (sum(areas) - w * h)


@pytest.mark.parametrize("arguments", [("--overlap", "10"), ("--tile", "64", "--overlap", "64")])
def test_tiles_that_make_no_sense(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    refused = maskfleet("segment", tmp_path, tmp_path / "out", *arguments)
    assert refused.exit_code == 2
    assert "--overlap" in refused.stderr


@pytest.mark.parametrize("gpus", ["0.001", "1.5"])
def test_gpus_that_cannot_be_split_so_are_a_usage_error(tmp_path: Path, gpus: str) -> None:
    refused = maskfleet("segment", tmp_path, tmp_path / "out", "--gpus-per-worker", gpus)
    assert refused.exit_code == 2
    assert f"--gpus-per-worker {gpus}: " in refused.stderr
