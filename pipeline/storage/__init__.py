"""Every store through fsspec: ranged reads with retries, tar and Parquet containers, atomic writes.

Errors of a store become one line with a remedy and without credentials.
"""
