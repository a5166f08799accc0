"""A decoder and a file system with bugs like those that real ones have had.

Images of certain sizes, and a file of a certain name, end the process that loads them. Python imports this module when
it starts, if its folder is on PYTHONPATH; so do the workers of the tests' Ray.
"""

import os
import signal

from fsspec.implementations.local import LocalFileSystem
from PIL import PngImagePlugin

cat = LocalFileSystem.cat_file
load = PngImagePlugin.PngImageFile.load


def faulty_cat(self, path, *args, **kwargs):
    """Ends the process at a file of a certain name."""
    if path.endswith("unreadable.png"):
        os.kill(os.getpid(), signal.SIGKILL)
    return cat(self, path, *args, **kwargs)


def faulty_load(self):
    """Ends the process at images of certain sizes."""
    if self.size in ((161, 67), (61, 67)):
        os.kill(os.getpid(), signal.SIGSEGV)
    return load(self)


LocalFileSystem.cat_file = faulty_cat
PngImagePlugin.PngImageFile.load = faulty_load
