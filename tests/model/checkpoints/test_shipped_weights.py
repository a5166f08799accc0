"""The shipped checkpoints: detections equal torchvision's, and the provenance is complete."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model import load_model, read_checkpoint
from model.checkpoints.checkpoint import SHIPPED, shipped_names
from model.training.network import build_torchvision

SHIPPED_NAMES = ["nuclei", "nuclei-finest"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED_NAMES)
def test_detections_equal_torchvisions(name: str, nuclei: Path) -> None:
    checkpoint = read_checkpoint(name)
    network, reference = (
        load_model(checkpoint, precision="fp32", device="cpu"),
        build_torchvision(checkpoint.preset).eval(),
    )
    assert not reference.load_state_dict(checkpoint.state, strict=False).unexpected_keys
    files = sorted(nuclei.iterdir())[1:4:2]  # 360 and 256 pixels wide, with few nuclei and with over a hundred
    images = [np.array(Image.open(f).convert("RGB")) for f in files]
    logits: list[torch.Tensor] = []
    reference.roi_heads.mask_predictor.register_forward_hook(lambda _, __, output: logits.append(output))
    seen = 0
    for found, image in zip(network.predict(images), images, strict=True):
        with torch.inference_mode():
            expected = reference([torch.from_numpy(image).permute(2, 0, 1).float() / 255])[0]
        assert found.labels.tolist() == expected["labels"].tolist()
        torch.testing.assert_close(found.boxes, expected["boxes"], rtol=0, atol=1e-3)
        torch.testing.assert_close(found.scores, expected["scores"], rtol=0, atol=1e-5)
        torch.testing.assert_close(found.masks, logits[-1][:, 1].sigmoid(), rtol=0, atol=1e-4)
        seen += len(found)
    assert seen > 100


@pytest.mark.parametrize("name", SHIPPED_NAMES)
def test_the_file_is_small_and_has_its_provenance(name: str) -> None:
    checkpoint = read_checkpoint(name)
    assert (SHIPPED / f"{name}.safetensors").stat().st_size < 12_000_000
    assert checkpoint.preset.categories == ("nucleus",)
    assert checkpoint.provenance["data"] == "train.json"
    assert checkpoint.provenance["val"]["images"] == 52
    assert checkpoint.provenance["val"]["segm"]["AP"] > 0.4


def test_nuclei_finest_has_the_reference_architecture() -> None:
    """Proposals from the finest map only: nine anchors (three scales, three ratios) and 2k softmax scores."""
    preset = read_checkpoint("nuclei-finest").preset
    assert preset.rpn_levels == 1
    assert preset.anchors_per_location == 9
    assert preset.rpn_scores == 2
    network = load_model("nuclei-finest", device="cpu")
    head = network.rpn["head"]
    assert head.cls_logits.out_channels == 2 * 9
    assert head.bbox_pred.out_channels == 4 * 9


def test_all_shipped_checkpoints_are_tested() -> None:
    assert sorted(shipped_names()) == SHIPPED_NAMES
