"""Sample data for the demo, the benchmarks and the tests.

`data/` holds microscope images with annotations, `s3_server` runs a local S3 server, and `picture` draws results.
"""

from __future__ import annotations

from pathlib import Path

DATA = Path(__file__).parent / "data"

__all__ = ["DATA"]
