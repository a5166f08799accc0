"""Reading COCO annotations."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.analysis.annotations import read_annotations
from pipeline.errors import InputError
from pipeline.storage import place


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<html><body>Sign in</body></html>", "is not JSON"),
        ("file,label\na.png,1\n", "is not JSON"),
        ("[]", "no list 'images'"),
        ('{"images": [], "categories": []}', "no list 'annotations'"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "no 'file_name'"),
    ],
)
def test_a_file_that_is_not_coco_instances_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "ann.json"
    path.write_text(text)
    with pytest.raises(InputError, match=reason):
        read_annotations(path, place(tmp_path))


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.json: no such"):
        read_annotations(tmp_path / "nowhere.json", place(tmp_path))
