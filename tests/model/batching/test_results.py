"""Downloading a batch's results keeps every bit."""

from __future__ import annotations

import pytest
import torch

from model.batching.results import BatchDetections, download


@pytest.mark.parametrize("count", [0, 1, 37])
def test_a_download_keeps_every_bit(count: int) -> None:
    rois, scores, masks = torch.randn(count, 5), torch.rand(count), torch.rand(count, 28, 28)
    labels = torch.randint(1, 2**24, (count,))
    batch = BatchDetections(rois, scores, labels, masks)
    for found, expected in zip(download(batch), batch, strict=True):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
