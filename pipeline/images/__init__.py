"""Decodes images: bytes of any supported format to 8-bit RGB pixels.

`decoder` has the rules for every format. Beside it are modules for what Pillow does not read correctly. `device_jpeg`
decodes JPEG files on the GPU; it is imported by its path, since it loads torch.

To add an image format: its suffix in `pipeline.storage.suffixes`, then its Pillow name in `decoder.PILLOW_FORMATS`, or
a module beside `tiff` and a line in `decoder._open_header` if Pillow cannot read it.
"""

from pipeline.images.decoder import ImageError, OpenedImage, cropper, open_image, to_rgb

__all__ = ["ImageError", "OpenedImage", "cropper", "open_image", "to_rgb"]
