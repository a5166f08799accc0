"""Every store through fsspec: ranged reads with retries, tar and Parquet containers, atomic writes.

Errors of a store become one line with a remedy and without credentials.
"""

from pipeline.storage.filesystem import Place, place, store_kind
from pipeline.storage.object_info import local_info, version_of
from pipeline.storage.store_errors import explain, one_line, redacted

__all__ = ["Place", "explain", "local_info", "one_line", "place", "redacted", "store_kind", "version_of"]
