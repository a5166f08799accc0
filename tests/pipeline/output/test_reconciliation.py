"""Preparing an output for a run: the order of checks, and what a run changes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.results import DESCRIPTION, failed, segmented, table

from pipeline.errors import InputError
from pipeline.observer import JobObserver
from pipeline.options import Options
from pipeline.output.description import SAME
from pipeline.output.reconciliation import clean_results, dry_run, prepare_output
from pipeline.schema import image_id
from pipeline.storage import Place, place

SETTINGS = DESCRIPTION | dict.fromkeys(SAME, "as before")


class Answer(JobObserver):
    """Answers every question in the same way and remembers the questions."""

    def __init__(self, answer: bool) -> None:
        self.answer = answer
        self.questions: list[str] = []

    def confirm(self, question: str) -> bool:
        self.questions.append(question)
        return self.answer


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three images; the output has a result of the first, an error of the second and nothing of the third."""
    root = tmp_path / "in"
    root.mkdir()
    for name in "abc":
        (root / f"{name}.png").write_bytes(b"1")
    (tmp_path / "out" / "results").mkdir(parents=True)
    rows = [segmented(f"{root}/a.png", 8, 8, []), failed(f"{root}/b.png", "DamagedImage: x")]
    pq.write_table(table(rows, SETTINGS), tmp_path / "out" / "results" / "0.parquet")
    return root


def options(root: Path, **changes: object) -> Options:
    return Options(**{"inputs": (place(root),), "output": place(root.parent / "out"), **changes})


def files(output: Place) -> list[str]:
    return sorted(str(p.relative_to(output.path)) for p in Path(output.path).rglob("*") if p.is_file())


def ids(root: Path, names: str) -> list[int]:
    return sorted(image_id(f"{root}/{name}.png") for name in names)


def test_results_of_the_same_settings_stay(root: Path) -> None:
    record, observer = {"run": "run"}, Answer(False)
    assert prepare_output(options(root), SETTINGS, record, observer).tolist() == ids(root, "ab")
    assert record == {"run": "run", "catalogued": 3}
    assert observer.questions == []


def test_results_of_other_settings_are_moved_only_with_overwrite_and_a_yes(root: Path) -> None:
    other = SETTINGS | {"precision": "fp32"}
    output = options(root).output
    before = files(output)
    with pytest.raises(InputError, match=r"other settings .*precision.*--overwrite"):
        prepare_output(options(root), other, {"run": "run"}, Answer(True))
    no = Answer(False)
    with pytest.raises(InputError, match="nothing was changed"):
        prepare_output(options(root, overwrite=True), other, {"run": "run"}, no)
    assert "replaced/run" in no.questions[0]
    assert files(output) == before
    record: dict = {"run": "run"}
    done = prepare_output(options(root, overwrite=True), other, record, Answer(True))
    assert (done.tolist(), record) == ([], {"run": "run", "catalogued": 3, "files_set_aside": 1})
    assert [f for f in files(output) if not f.startswith("catalog/")] == ["replaced/run/0.parquet"]


@pytest.mark.parametrize(
    ("changes", "settings"),
    [({"overwrite": True}, SETTINGS | {"precision": "fp32"}), ({"retry_errors": True}, SETTINGS)],
)
def test_a_mistyped_input_costs_no_result(changes: dict, settings: dict, root: Path) -> None:
    wrong = options(root, inputs=(place(root / "tpyo"),), **changes)
    before = files(wrong.output)
    with pytest.raises(InputError, match="tpyo"):
        prepare_output(
            wrong,
            SETTINGS | {"precision": "fp32"} if "overwrite" in changes else SETTINGS,
            {"run": "run"},
            Answer(True),
        )
    assert files(wrong.output) == before


def test_error_rows_are_removed_for_a_retry(root: Path) -> None:
    record: dict = {"run": "run"}
    done = prepare_output(options(root, retry_errors=True), SETTINGS, record, Answer(False))
    assert (done.tolist(), record) == (ids(root, "a"), {"run": "run", "catalogued": 3, "errors_retried": 1})


def test_cleaning_counts_the_duplicates_it_removes(root: Path) -> None:
    output = options(root).output
    results = Path(output.path, "results")
    shutil.copy(results / "0.parquet", results / "1.parquet")
    record: dict = {"doubles_removed": 1}
    assert clean_results(output, record).tolist() == ids(root, "ab")
    assert record == {"doubles_removed": 3}
    assert clean_results(output, record).tolist() == ids(root, "ab")


def test_a_dry_run_only_reads_the_output(root: Path) -> None:
    output = options(root).output
    before = files(output)
    with dry_run(options(root, retry_errors=True), SETTINGS, Answer(False)) as plan:
        assert (plan.done.tolist(), plan.rows, plan.conflict) == (ids(root, "a"), 2, "")
        assert len(plan.catalog_root.join("catalog").list(".parquet")) == 1
    with dry_run(options(root, overwrite=True), SETTINGS | {"nvjpeg": True}, Answer(False)) as plan:
        assert (plan.done.tolist(), plan.rows) == ([], 2)
        assert "other settings (nvjpeg" in plan.conflict
    assert files(output) == before
