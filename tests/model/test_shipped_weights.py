"""The shipped checkpoint: torchvision's numbers, and what it says of itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model import load_model, read_checkpoint
from model.load import SHIPPED
from model.training.network import build_torchvision


@pytest.mark.slow
def test_the_trained_network_gives_torchvisions_numbers(nuclei: Path) -> None:
    checkpoint = read_checkpoint("nuclei")
    network, reference = load_model(checkpoint, precision="fp32"), build_torchvision(checkpoint.preset).eval()
    assert not reference.load_state_dict(checkpoint.state, strict=False).unexpected_keys
    files = sorted(nuclei.iterdir())[:6]
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
    assert seen > 50


def test_the_file_says_what_it_is_and_is_small() -> None:
    checkpoint = read_checkpoint("nuclei")
    assert (SHIPPED / "nuclei.safetensors").stat().st_size < 12_000_000
    assert checkpoint.preset.categories == ("nucleus",)
    assert checkpoint.provenance["data"] == "train.json"
    assert checkpoint.provenance["val"]["images"] == 52
    assert checkpoint.provenance["val"]["segm"]["AP"] > 0.4
