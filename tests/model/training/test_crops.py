"""Random crops are valid training samples."""

from __future__ import annotations

from jobs.sample import DATA
from model.training.crops import CropOptions, RandomCrops, TrainingData


def test_boxes_fit_the_masks_of_a_crop() -> None:
    options = CropOptions(size=128, min_size=256)
    crops = RandomCrops(TrainingData(DATA / "annotations.json", DATA / "images", options, "modality_guess"), 100)
    for i in range(12):
        image, target = crops[i]
        assert image.shape[0] == 3
        assert max(image.shape[1:]) <= 128
        assert 0 <= image.min() <= image.max() <= 1
        assert len(target["boxes"]) == len(target["labels"]) == len(target["masks"]) > 0
        for box, mask in zip(target["boxes"], target["masks"], strict=True):
            y, x = mask.nonzero(as_tuple=True)
            assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
