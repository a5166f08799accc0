"""The catalog: one row for each image that a job was asked for, with the address of its bytes.

Inputs are listed, shards are indexed, new images are merged into OUTPUT/catalog, and what has no result yet is cut into
read tasks. Other packages import the modules by their path.
"""
