"""From images to batches on the device, and from a batch's results back to images.

Batches hold images of equal padded shape. The next batch is uploaded while the network works on the current one.
"""

from model.batching.inputs import batches_by_shape, checked_image
from model.batching.prefetch import Prefetcher, pin, uploader
from model.batching.results import BatchDetections, split_by_image

__all__ = [
    "BatchDetections",
    "Prefetcher",
    "batches_by_shape",
    "checked_image",
    "pin",
    "split_by_image",
    "uploader",
]
