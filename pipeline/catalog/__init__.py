"""The catalog: one row for each image that a job was asked for, with the address of its bytes.

Inputs are listed, shards are indexed, and what is new is merged into OUTPUT/catalog.
"""
