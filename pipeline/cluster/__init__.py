"""The Ray cluster that a job runs on: connection, sizes of the stages, progress, metrics, shutdown.

Nothing here is part of the guarantees: those rest on storage.
"""
