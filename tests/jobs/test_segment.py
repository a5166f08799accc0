"""The main job as a user runs it: a process, a folder or a bucket in, Parquet out."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pytest
import tifffile
from PIL import Image
from pycocotools import mask as coco_mask
from s3fs import S3FileSystem
from typer.testing import CliRunner, Result

from jobs.main import app
from model import load_model
from model.checkpoints.checkpoint import SHIPPED
from pipeline.schema import RESULTS, description_of

pytestmark = pytest.mark.slow


def maskfleet(*arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs the command in a process of its own."""
    command = [sys.executable, "-m", "jobs.main", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert not check or done.returncode == 0, done.stderr
    return done


def planned(*arguments: object) -> Result:
    """Runs `maskfleet segment` in this process: for what ends before Ray starts, a plan or a refusal."""
    return CliRunner().invoke(app, ["segment", *map(str, arguments)])


def segment(*arguments: object) -> dict:
    """Runs `maskfleet segment --json` and gives its record."""
    return json.loads(maskfleet("segment", *arguments, "--json").stdout)


def results(output: Path) -> list[dict]:
    return pads.dataset(str(output / "results"), format="parquet").to_table().sort_by("uri").to_pylist()


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, nuclei: Path, photos: Path) -> tuple[Path, Path, dict]:
    """A folder of good and bad images, segmented once: (inputs, output, record)."""
    folder, output = tmp_path_factory.mktemp("mixed"), tmp_path_factory.mktemp("out") / "masks"
    source = sorted(p for p in nuclei.iterdir() if p.stat().st_size < 60_000)[0]
    image = Image.open(source).convert("RGB")
    shutil.copy(source, folder / "good.png")
    image.convert("L").save(folder / "grey.png")
    image.quantize(64).save(folder / "palette.png")
    image.convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 200).save(folder / "sixteen.png")
    (folder / "truncated.jpg").write_bytes(next(photos.glob("*.jpg")).read_bytes()[:20_000])
    (folder / "zero.jpg").touch()
    (folder / "text.jpg").write_text("This is no picture.")
    return folder, output, segment(folder, output)


def test_each_image_is_one_row_with_masks_or_a_reason(mixed: tuple[Path, Path, dict]) -> None:
    folder, output, record = mixed
    rows = {Path(r["uri"]).name: r for r in results(output)}
    assert sorted(rows) == sorted(p.name for p in folder.iterdir())
    errors = {name: r["error"] for name, r in rows.items() if r["error"]}
    assert sorted(errors) == ["text.jpg", "truncated.jpg", "zero.jpg"]
    assert errors["zero.jpg"].startswith("EmptyFile: ")
    assert errors["text.jpg"].startswith("NotAnImage: ")
    assert errors["truncated.jpg"].startswith("DamagedImage: ")
    assert record["errors"] == {"EmptyFile": 1, "NotAnImage": 1, "DamagedImage": 1}
    assert 0 < record["batch_fill"] <= 1
    assert 0 <= record["padding_waste"] < 0.1
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


def test_files_have_the_schema_and_say_what_made_them(mixed: tuple[Path, Path, dict]) -> None:
    schema = pads.dataset(str(mixed[1] / "results"), format="parquet").schema
    assert schema.remove_metadata().equals(RESULTS)
    description = description_of(schema)
    assert description["schema_version"] == 1
    assert description["classes"] == {"1": "nucleus"}
    assert len(description["weights_sha256"]) == 64


def test_a_row_is_what_the_network_predicts(mixed: tuple[Path, Path, dict]) -> None:
    folder, output, _ = mixed
    row = next(r for r in results(output) if r["uri"].endswith("good.png"))
    found = load_model("nuclei").predict([np.asarray(Image.open(folder / "good.png").convert("RGB")).copy()])[0]
    assert len(found) == len(row["score"])
    np.testing.assert_allclose(row["score"], found.scores.numpy(), atol=1e-5)
    corners = [[x, y, x + w, y + h] for x, y, w, h in row["bbox"]]
    np.testing.assert_allclose(corners, found.boxes.numpy(), atol=1e-3)


def test_again_does_nothing_and_three_more_images_are_three(mixed: tuple[Path, Path, dict], nuclei: Path) -> None:
    folder, output, _ = mixed
    before = {p.name: p.read_bytes() for p in (output / "results").iterdir()}
    said = maskfleet("segment", folder, output).stdout
    assert "nothing to do" in said
    assert {p.name: p.read_bytes() for p in (output / "results").iterdir()} == before
    for path in sorted(p for p in nuclei.iterdir() if p.stat().st_size < 60_000)[1:4]:
        shutil.copy(path, folder)
    record = segment(folder, output)
    assert (record["images_before"], record["images_to_do"], record["done"], record["left"]) == (8, 3, 11, 0)
    uris = [r["uri"] for r in results(output)]
    assert len(uris) == len(set(uris)) == 11


def test_other_settings_on_the_same_output_are_refused(mixed: tuple[Path, Path, dict]) -> None:
    folder, output, _ = mixed
    done = planned(folder, output, "--min-score", "0.9")
    assert done.exit_code == 1
    assert "min_score 0.05 -> 0.9" in done.stderr


def test_s3_tars_and_loose_files(plate: Path, bucket: tuple[S3FileSystem, str]) -> None:
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
    record = segment(f"s3://{name}/shards/a-{{000..000}}.tar", f"s3://{name}/plates", output)
    assert (record["done"], record["failed"], record["catalogued"]) == (6, 0, 6)
    files = [f for f in s3.find(f"{name}/masks/results") if f.endswith(".parquet")]
    table = pads.dataset(files, filesystem=pa.fs.PyFileSystem(pa.fs.FSSpecHandler(s3)), format="parquet").to_table()
    uris = {f"s3://{name}/shards/a-000.tar#w1/{p.name}" for p in images[:4]}
    uris |= {f"s3://{name}/plates/ü {p.name}" for p in images[4:]}
    assert set(table["uri"].to_pylist()) == uris
    assert segment(f"s3://{name}/plates", output)["images_to_do"] == 0
    text = json.dumps(record) + str(table.schema.metadata)
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in text


def test_a_killed_job_continues_and_each_image_is_there_once(nuclei: Path, tmp_path: Path) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    source = sorted(p for p in nuclei.iterdir() if p.stat().st_size < 60_000)[:16]
    for copy in range(10):
        for path in source:
            shutil.copy(path, folder / f"{copy}-{path.name}")
    quick = ("--set", "min_size=128", "--set", "max_detections=30")
    command = [sys.executable, "-m", "jobs.main", "segment", str(folder), str(output), *quick]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
    committed = output / "_checkpoint"
    while not any(".pending" not in p.name for p in committed.glob("*.parquet")):
        assert process.poll() is None, "the job ended before it could be killed"
        time.sleep(0.02)
    process.kill()
    process.wait()
    time.sleep(3)  # Ray's own processes notice that their driver is gone
    at_kill = pads.dataset(str(output / "results"), format="parquet").count_rows()
    assert 0 < at_kill < 160
    record = segment(folder, output, *quick)
    assert record["images_before"] + record["images_to_do"] == record["done"] == 160
    uris = [r["uri"] for r in results(output)]
    assert sorted(uris) == sorted(str(p) for p in folder.iterdir())
    assert not list(committed.glob("*.pending.parquet"))


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
    done = CliRunner().invoke(app, ["segment", *(a.format(**names) for a in arguments)])
    assert done.exit_code == status, done.output
    assert message in done.stderr
    assert "starting Ray" not in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("error:")]) == 1


@pytest.mark.parametrize("wrong", ["bucket", "secret", "endpoint"])
def test_s3_that_cannot_be_used_is_one_line_without_the_secret(
    wrong: str, bucket: tuple[S3FileSystem, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, name = bucket
    if wrong == "secret":
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    if wrong == "endpoint":
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    url = "s3://no-such-bucket/x" if wrong == "bucket" else f"s3://{name}/x"
    done = maskfleet("segment", url, tmp_path / "out", check=False)
    expected = {"bucket": "no such", "secret": "access denied", "endpoint": "cannot be reached"}[wrong]
    assert done.returncode == 1
    assert expected in done.stderr
    assert url in done.stderr
    assert "Traceback" not in done.stderr
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in done.stderr


@pytest.mark.parametrize("to", ["s3", "a disk"])
def test_storage_options_reach_the_weights(
    to: str, bucket: tuple[S3FileSystem, str], plate: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    s3, name = bucket
    s3.put(str(SHIPPED / "nuclei.safetensors"), f"{name}/nuclei.safetensors")
    keys = {"key": "AWS_ACCESS_KEY_ID", "secret": "AWS_SECRET_ACCESS_KEY", "endpoint_url": "AWS_ENDPOINT_URL_S3"}
    given = [
        part for key, variable in keys.items() for part in ("--storage-option", f"s3.{key}={os.environ[variable]}")
    ]
    for variable in keys.values():
        monkeypatch.delenv(variable)
    output = f"s3://{name}/out" if to == "s3" else tmp_path / "out"
    arguments = (
        "segment",
        plate,
        output,
        "--weights",
        f"s3://{name}/nuclei.safetensors",
        "--plan",
        "--limit",
        1,
        "--json",
    )
    assert "cannot read weights" in maskfleet(*arguments, check=False).stderr
    done = maskfleet(*arguments, *given)
    assert json.loads(done.stdout)["sample"]["images"] == 1


def test_interrupt_says_that_nothing_is_lost(plate: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jobs.main", "segment", str(plate), str(tmp_path / "out")]
    # A shell lets what it starts in the background ignore Ctrl-C, and so would this child.
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    )
    assert process.stderr
    for line in process.stderr:
        if "segmenting" in line:
            break
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait(60) == 130, rest
    assert "nothing finished is lost" in rest


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
    done = CliRunner().invoke(app, ["segment", str(plate), str(tmp_path / "out"), "--config", str(config)])
    assert done.exit_code in (1, 2)
    assert message in " ".join(done.stderr.replace("│", " ").split())
    assert "starting Ray" not in done.stderr


def test_the_command_line_goes_before_the_config_file(plate: Path, tmp_path: Path) -> None:
    config = tmp_path / "job.yaml"
    config.write_text("weights: from-the-file")
    arguments = ["segment", str(plate), str(tmp_path / "out"), "--config", str(config), "--weights", "from-the-line"]
    assert "no weights named 'from-the-line'" in CliRunner().invoke(app, arguments).stderr


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory, nuclei: Path) -> Path:
    """A folder of one image of 700x512, made of nuclei, one of 16 bits of it, and one small image."""
    folder = tmp_path_factory.mktemp("slides")
    small = [p for p in sorted(nuclei.iterdir()) if Image.open(p).size == (256, 256)][:6]
    canvas = np.zeros((700, 512, 3), np.uint8)
    for i, path in enumerate(small[:4]):
        y, x = 256 * (i // 2), 256 * (i % 2)
        canvas[y : y + 256, x : x + 256] = np.array(Image.open(path).convert("RGB"))
    Image.fromarray(canvas).save(folder / "slide.tif", compression="tiff_lzw")
    Image.fromarray(canvas[..., 0].astype(np.uint16) * 100).save(folder / "slide16.png")
    many = np.repeat(canvas[..., :1].astype(np.uint16), 10, axis=2)  # 20 bytes a pixel
    tifffile.imwrite(folder / "channels.tif", many, photometric="minisblack", planarconfig="contig", compression="zlib")
    (folder / "cut.tif").write_bytes((folder / "slide.tif").read_bytes()[:100_000])
    shutil.copy(small[4], folder / "small.png")
    return folder


def test_a_slide_in_tiles_is_one_row(slide: Path, tmp_path: Path) -> None:
    record = segment(slide, tmp_path / "out", "--tile", 256, "--overlap", 64)
    rows = {Path(r["uri"]).name: r for r in results(tmp_path / "out")}
    assert sorted(rows) == ["channels.tif", "cut.tif", "slide.tif", "slide16.png", "small.png"]
    assert record["errors"] == {"DamagedImage": 1}
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
    pixels = np.array(Image.open(slide / "slide.tif").convert("RGB"))
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


def test_tiles_are_a_setting_that_results_are_not_mixed_of(slide: Path, tmp_path: Path) -> None:
    segment(slide / "small.png", tmp_path / "out")
    refused = planned(slide / "small.png", tmp_path / "out", "--tile", 256)
    assert refused.exit_code == 1
    assert "tiling" in refused.stderr


@pytest.mark.parametrize("arguments", [("--overlap", "10"), ("--tile", "64", "--overlap", "64")])
def test_tiles_that_make_no_sense(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    refused = planned(tmp_path, tmp_path / "out", *arguments)
    assert refused.exit_code == 2
    assert "--overlap" in refused.stderr


@pytest.mark.parametrize("gpus", ["0.001", "1.5"])
def test_gpus_that_cannot_be_split_so_are_a_usage_error(tmp_path: Path, gpus: str) -> None:
    refused = planned(tmp_path, tmp_path / "out", "--gpus-per-worker", gpus)
    assert refused.exit_code == 2
    assert f"--gpus-per-worker {gpus}: " in refused.stderr
