"""Reads and writes objects in every store that fsspec knows: S3, Google Cloud, Azure, HTTP, the local disk.

It holds ranged reads with retries, the containers that hold images (tar, .tgz, Parquet) and atomic writes. An error of
a store becomes one line with a remedy and without credentials.

Where to change what: a store in `filesystem`, the words of its errors in `store_errors`, the retry policy in `retries`,
suffixes of images and containers in `suffixes`, a container in `containers` and `image_readers`.

The names below load neither pyarrow nor the client of any store. The other modules are imported by their path.
"""

from pipeline.storage.filesystem import Place, place
from pipeline.storage.object_info import local_info, version_of
from pipeline.storage.store_errors import explain, one_line, redacted, store_kind

__all__ = ["Place", "explain", "local_info", "one_line", "place", "redacted", "store_kind", "version_of"]
