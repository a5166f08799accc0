"""Published weights are downloaded once, verified, and cached."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_V2_Weights, MaskRCNN_ResNet50_FPN_Weights

from model import Checkpoint, MaskRCNN, Preset, WeightsError, load_model, read_checkpoint
from model.checkpoints import published
from model.checkpoints.families.coco_categories import COCO_CLASSES, COCO_OUTPUTS
from model.checkpoints.published import PUBLISHED, fetch_published


class Server(http.server.ThreadingHTTPServer):
    """Answers with the first `sent` bytes of `body`."""

    body, sent, asked = b"", 10**12, 0


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked += 1
        if self.path.startswith("/missing"):
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body[: self.server.sent])
        return None

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    with Server(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def publish(server: Server, body: bytes, monkeypatch: pytest.MonkeyPatch, path: str = "", digits: str = "") -> str:
    server.body = body
    name = f"tiny-{digits or hashlib.sha256(body).hexdigest()[:8]}.pth"
    monkeypatch.setitem(PUBLISHED, "coco", f"http://127.0.0.1:{server.server_port}{path}/{name}")
    return name


def test_the_addresses_are_torchvisions() -> None:
    theirs = {"coco": MaskRCNN_ResNet50_FPN_Weights, "coco-v2": MaskRCNN_ResNet50_FPN_V2_Weights}
    assert {name: weights.COCO_V1.url for name, weights in theirs.items()} == PUBLISHED


def test_the_categories_are_cocos() -> None:
    names = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    assert len(names) == COCO_OUTPUTS
    assert {i: n for i, n in enumerate(names) if n not in ("__background__", "N/A")} == COCO_CLASSES


def test_fetched_once_and_loaded(
    server: Server, tiny: Preset, tiny_torchvision: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(tiny_torchvision.state_dict(), tmp_path / "tiny.pth")
    name = publish(server, (tmp_path / "tiny.pth").read_bytes(), monkeypatch)
    first = read_checkpoint("coco")
    assert isinstance(first, Checkpoint)
    assert read_checkpoint("coco").digest == first.digest
    assert server.asked == 1
    cache = tmp_path / "cache" / "hub" / "checkpoints"
    assert [p.name for p in cache.iterdir()] == [name]
    overrides = {"anchor_sizes": tiny.anchor_sizes, "anchor_ratios": tiny.anchor_ratios}
    assert isinstance(load_model("coco", device="cpu", **overrides), MaskRCNN)


def test_a_damaged_file_in_the_cache_is_fetched_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(server, b"weights", monkeypatch)
    path = fetch_published("coco")
    path.write_bytes(b"weigh")
    assert fetch_published("coco").read_bytes() == b"weights"
    assert server.asked == 2


@pytest.mark.parametrize("fault", ["other content", "cut off", "not found", "no server"])
def test_a_file_that_is_not_the_published_one_is_not_cached(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    publish(
        server,
        b"x" * 5000,
        monkeypatch,
        path="/missing" if fault == "not found" else "",
        digits="00000000" if fault == "other content" else "",
    )
    if fault == "cut off":
        server.sent = 100
    if fault == "no server":
        monkeypatch.setitem(PUBLISHED, "coco", "http://127.0.0.1:9/tiny-00000000.pth")
    with pytest.raises(WeightsError, match="give --weights the path") as error:
        read_checkpoint("coco")
    assert PUBLISHED["coco"] in str(error.value)
    assert not list(published.Path(tmp_path / "cache").rglob("*.p*"))
