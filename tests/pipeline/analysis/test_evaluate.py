"""Average precision of an output, against pycocotools' own run on COCO results files."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from support.results import failed, imperfect, perfect, segmented, subset, write_output

from pipeline.analysis.evaluate import evaluate
from pipeline.errors import InputError
from pipeline.storage import Place

FIGURES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")


@pytest.fixture(scope="module")
def truth(annotations: dict) -> dict:
    """Six images of nuclei; the last has over 150, which is enough for more than 100 imperfect ones."""
    objects = Counter(a["image_id"] for a in annotations["annotations"])
    return subset(annotations | {"images": [i for i in annotations["images"] if objects[i["id"]] < 160]}, 6)


@pytest.fixture(scope="module")
def small(annotations: dict) -> dict:
    """Three images of a few dozen nuclei."""
    chosen = subset(annotations, 4)
    return chosen | {"images": chosen["images"][:3]}


@pytest.fixture
def truth_file(truth: dict, tmp_path: Path) -> Path:
    return written(truth, tmp_path)


def written(content: object, folder: Path) -> Path:
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    return path


def independent(truth: dict, rows: list[dict], kind: str, max_detections: int, folder: Path) -> COCOeval:
    """COCOeval over a results file that has only the fields that its kind needs."""
    by_name = {i["file_name"]: i["id"] for i in truth["images"]}
    results = []
    for row in rows:
        for i, score in enumerate(row["score"]):
            shape = {"bbox": row["bbox"][i]}
            if kind == "segm":
                shape = {"segmentation": {"size": [row["height"], row["width"]], "counts": row["rle"][i]}}
            image = by_name[row["uri"].rsplit("/", 1)[-1]]
            results.append({"image_id": image, "category_id": 1, "score": score} | shape)
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "truth.json").write_text(json.dumps(truth))
    coco = COCO(str(folder / "truth.json"))
    evaluation = COCOeval(coco, coco.loadRes(str(folder / "results.json")), kind)
    evaluation.params.maxDets = [1, 10, max_detections]
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


def test_perfect_results_have_an_ap_of_one(truth: dict, truth_file: Path, tmp_path: Path) -> None:
    figures = evaluate(write_output(tmp_path / "out", perfect(truth)), truth_file)
    for kind in ("segm", "bbox"):
        assert figures[kind]["AP"] == pytest.approx(1)
        assert figures[kind]["AP_small"] == pytest.approx(1)
    assert figures["images"] == 6
    assert figures["instances"] == figures["detections"] == len(truth["annotations"])
    assert (figures["matched_by"], figures["categories_unmatched"]) == ("name", [])
    json.dumps(figures)


@pytest.mark.slow
def test_an_image_of_over_100_objects_needs_more_than_100_detections(truth: dict, tmp_path: Path) -> None:
    crowded = truth | {"images": truth["images"][-1:]}
    rows = perfect(crowded)
    assert len(rows[0]["rle"]) > 150
    output, ann = write_output(tmp_path / "out", rows), written(crowded, tmp_path)
    assert evaluate(output, ann)["segm"]["AP"] == pytest.approx(1)
    capped = evaluate(output, ann, 100)
    assert capped["max_detections"] == 100
    assert capped["segm"]["AP"] == pytest.approx(100 / len(rows[0]["rle"]), abs=0.02)  # the recall


@pytest.mark.slow
@pytest.mark.parametrize("max_detections", [100, 500])
def test_figures_are_those_of_pycocotools(max_detections: int, truth: dict, truth_file: Path, tmp_path: Path) -> None:
    rows = imperfect(truth)
    figures = evaluate(write_output(tmp_path / "out", rows), truth_file, max_detections)
    for kind in ("segm", "bbox"):
        reference = independent(truth, rows, kind, max_detections, tmp_path)
        expected = dict(zip(FIGURES, reference.stats[:6].tolist(), strict=True))
        if max_detections != 100:  # summarize() looks for 100 detections in its first figure, and finds none
            assert expected["AP"] == -1
            precision = reference.eval["precision"][:, :, :, 0, 2]
            expected["AP"] = precision[precision > -1].mean()
        assert 0.1 < figures[kind]["AP"] < 0.9
        for name in FIGURES:
            known = pytest.approx(expected[name], abs=1e-12) if expected[name] > -1 else None
            assert figures[kind][name] == known


def test_nothing_is_printed(small: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(write_output(tmp_path / "out", perfect(small)), written(small, tmp_path))
    assert capsys.readouterr() == ("", "")


def test_a_size_that_no_object_has_is_none(small: dict, tmp_path: Path) -> None:
    figures = evaluate(write_output(tmp_path / "out", perfect(small)), written(small, tmp_path))
    assert figures["segm"]["AP_large"] is None


def test_rows_and_annotations_without_each_other_are_counted(truth: dict, tmp_path: Path) -> None:
    rows = perfect(truth)
    extra = segmented("s3://lab/plates/other.png", 64, 64, [])
    shown = evaluate(write_output(tmp_path / "out", [*rows[:4], extra]), written(truth, tmp_path))
    assert (shown["images"], shown["images_without_result"], shown["images_without_annotation"]) == (4, 2, 1)
    assert shown["segm"]["AP"] == pytest.approx(1)


def test_a_failed_image_counts_as_empty(small: dict, tmp_path: Path) -> None:
    rows = perfect(small)
    lost = failed(rows[0]["uri"], "DamagedImage: cut")
    emptied = segmented(rows[0]["uri"], rows[0]["width"], rows[0]["height"], [])
    ann = written(small, tmp_path)
    with_failure = evaluate(write_output(tmp_path / "a", [lost, *rows[1:]]), ann)
    with_empty = evaluate(write_output(tmp_path / "b", [emptied, *rows[1:]]), ann)
    assert with_failure["images_failed"] == 1
    assert 0 < with_failure["segm"]["AP"] < 0.99
    assert with_failure["segm"] == with_empty["segm"]


def test_an_output_without_a_detection_has_an_ap_of_zero(small: dict, tmp_path: Path) -> None:
    rows = [segmented(row["uri"], row["width"], row["height"], []) for row in perfect(small)]
    figures = evaluate(write_output(tmp_path / "out", rows), written(small, tmp_path))
    assert figures["segm"]["AP"] == figures["bbox"]["AP"] == 0


def test_members_of_tar_shards_match_by_their_own_name(small: dict, tmp_path: Path) -> None:
    rows = perfect(small, prefix="s3://lab/shards/a-000.tar#train/images/")
    figures = evaluate(write_output(tmp_path / "out", rows), written(small, tmp_path))
    assert figures["images"] == 3
    assert figures["segm"]["AP"] == pytest.approx(1)


def test_annotation_ids_may_start_at_zero(small: dict, tmp_path: Path) -> None:
    one = small | {"images": small["images"][:1], "annotations": [small["annotations"][0] | {"id": 0}]}
    assert one["annotations"][0]["image_id"] == one["images"][0]["id"]
    figures = evaluate(write_output(tmp_path / "out", perfect(one)), written(one, tmp_path))
    assert figures["segm"]["AP"] == pytest.approx(1)


def test_polygons_without_area_or_box_are_enough(tmp_path: Path) -> None:
    square = [[8.0, 8.0, 40.0, 8.0, 40.0, 40.0, 8.0, 40.0]]
    truth = {
        "images": [{"id": "x", "file_name": "sub\\square.png", "width": 64, "height": 64}],
        "annotations": [{"image_id": "x", "category_id": 5, "segmentation": square}],
        "categories": [{"id": 5, "name": "nucleus"}],
    }
    coco = COCO()
    coco.dataset = truth | {"annotations": [truth["annotations"][0] | {"id": 1}]}
    coco.createIndex()
    rle = coco.annToRLE(truth["annotations"][0])["counts"].decode()
    row = segmented("/data/square.png", 64, 64, [{"score": 0.9, "bbox": [8, 8, 32, 32], "rle": rle}])
    figures = evaluate(write_output(tmp_path / "out", [row]), written(truth, tmp_path))
    assert figures["segm"]["AP_medium"] == pytest.approx(1)
    assert figures["bbox"]["AP_medium"] == pytest.approx(1)


def renamed(truth: dict, *categories: dict) -> dict:
    return truth | {"categories": list(categories)}


def test_categories_match_by_name_whatever_their_ids(small: dict, tmp_path: Path) -> None:
    moved = [a | {"category_id": 7} for a in small["annotations"]]
    truth = renamed(small, {"id": 1, "name": "debris"}, {"id": 7, "name": "nucleus"}) | {"annotations": moved}
    figures = evaluate(write_output(tmp_path / "out", perfect(small)), written(truth, tmp_path))
    assert figures["matched_by"] == "name"
    assert figures["categories_unmatched"] == ["debris"]
    assert figures["segm"]["AP"] == pytest.approx(1)


def test_categories_match_by_id_where_no_name_does(small: dict, tmp_path: Path) -> None:
    truth = renamed(small, {"id": 1, "name": "Zellkern"})
    figures = evaluate(write_output(tmp_path / "out", perfect(small)), written(truth, tmp_path))
    assert figures["matched_by"] == "id"
    assert figures["segm"]["AP"] == pytest.approx(1)


def test_an_annotated_category_the_output_does_not_know_counts_as_missed(small: dict, tmp_path: Path) -> None:
    half = len(small["annotations"]) // 2
    annotations = [a | {"category_id": 1 + (i < half)} for i, a in enumerate(small["annotations"])]
    truth = renamed(small, {"id": 1, "name": "nucleus"}, {"id": 2, "name": "debris"}) | {"annotations": annotations}
    figures = evaluate(write_output(tmp_path / "out", perfect(small)), written(truth, tmp_path))
    assert figures["categories_unmatched"] == ["debris"]
    assert figures["segm"]["AP"] < 0.5


def test_no_common_category_shows_both_lists(small: dict, tmp_path: Path) -> None:
    truth = renamed(small, {"id": 44, "name": "bottle"})
    output = write_output(tmp_path / "out", perfect(small))
    with pytest.raises(InputError, match=r"44 bottle.*1 nucleus"):
        evaluate(output, written(truth, tmp_path))


def test_no_common_image_shows_both_kinds_of_name(small: dict, tmp_path: Path) -> None:
    output = write_output(tmp_path / "out", [segmented("s3://lab/other.png", 8, 8, [])])
    with pytest.raises(InputError, match=r"none of the 3 images.*0339.*s3://lab/other\.png.*file name"):
        evaluate(output, written(small, tmp_path))


def test_images_of_another_size_are_refused(small: dict, tmp_path: Path) -> None:
    turned = [i | {"width": i["height"] + 1} for i in small["images"]]
    output = write_output(tmp_path / "out", perfect(small))
    with pytest.raises(InputError, match="256x256 pixels but 257x256"):
        evaluate(output, written(small | {"images": turned}, tmp_path))


@pytest.mark.parametrize(("segmentation", "reason"), [([], "has no segmentation"), ("?", "is damaged")])
def test_annotations_without_masks_are_refused(segmentation: object, reason: str, small: dict, tmp_path: Path) -> None:
    boxes = small | {"annotations": [a | {"segmentation": segmentation} for a in small["annotations"]]}
    with pytest.raises(InputError, match=reason):
        evaluate(write_output(tmp_path / "out", perfect(small)), written(boxes, tmp_path))


@pytest.mark.slow
def test_annotations_from_the_store_of_the_output(
    bucket: tuple, small: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs, name = bucket
    fs.put(write_output(tmp_path / "out", perfect(small)).path, f"{name}/out", recursive=True)
    fs.put(str(written(small, tmp_path)), f"{name}/ann.json")
    figures = evaluate(Place(f"s3://{name}/out"), f"s3://{name}/ann.json")
    assert figures["segm"]["AP"] == pytest.approx(1)
