"""What a Python process does when it starts, if this folder is on PYTHONPATH: Python imports this module then."""

import os

if "TESTS_FORKSERVER" in os.environ:
    import forked_worker  # noqa: F401
if "TESTS_FAULTY_DECODER" in os.environ:
    import faulty_decoder  # noqa: F401
