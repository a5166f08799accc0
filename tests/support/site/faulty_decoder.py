"""A decoder with a bug like those that real ones have had: images of certain sizes end the process that loads them."""

import os
import signal

from PIL import PngImagePlugin

load = PngImagePlugin.PngImageFile.load


def faulty_load(self):
    """Ends the process at images of certain sizes."""
    if self.size in ((161, 67), (61, 67)):
        os.kill(os.getpid(), signal.SIGSEGV)
    return load(self)


PngImagePlugin.PngImageFile.load = faulty_load
