"""Matching file names of annotations to images."""

from __future__ import annotations

import pytest

from pipeline.analysis.file_name_matching import match_file_names
from pipeline.errors import InputError


def test_names_match_by_base_name() -> None:
    uris = ["s3://b/x/1.png", "s3://b/x.tar#y/2.png", "/data/3#4.png"]
    assert match_file_names(uris, ["2.png", "train/1.png", "3#4.png", "5.png"]) == {0: 1, 1: 0, 2: 2}


def test_the_longest_common_end_decides_between_equal_base_names() -> None:
    uris = ["s3://b/left/1.png", "s3://b/s.tar#right/1.png"]
    assert match_file_names(uris, ["right/1.png", "./left/1.png"]) == {0: 1, 1: 0}
    assert match_file_names(uris, ["C:\\data\\left\\1.png"]) == {0: 0}


def test_a_name_whose_image_is_not_done_yet_gets_no_other_image() -> None:
    uris = ["s3://b/left/1.png", "s3://b/right/1.png"]
    assert match_file_names(uris, ["left/1.png", "right/1.png", "top/1.png"]) == {0: 0, 1: 1}
    assert match_file_names(uris[:1], ["left/1.png", "right/1.png"]) == {0: 0}


def test_images_without_annotations_do_not_matter() -> None:
    uris = [f"s3://b/{folder}/1.png" for folder in ("left", "right", "top")]
    assert match_file_names(uris, ["left/1.png", "right/1.png"]) == {0: 0, 1: 1}


def test_a_name_that_fits_two_images_is_refused() -> None:
    with pytest.raises(InputError, match=r"1\.png .* s3://b/left/1\.png or s3://b/right/1\.png"):
        match_file_names(["s3://b/left/1.png", "s3://b/right/1.png"], ["1.png"])


def test_an_image_that_fits_two_names_is_refused() -> None:
    with pytest.raises(InputError, match=r"s3://b/1\.png could be left/1\.png or right/1\.png"):
        match_file_names(["s3://b/1.png"], ["left/1.png", "right/1.png"])


def test_a_name_that_fits_two_images_only_by_base_name_is_refused() -> None:
    with pytest.raises(InputError, match=r"top/1\.png"):
        match_file_names(["s3://b/left/1.png", "s3://b/right/1.png"], ["left/1.png", "top/1.png"])


def test_no_images_or_no_names() -> None:
    assert match_file_names([], ["1.png"]) == match_file_names(["1.png"], []) == {}
