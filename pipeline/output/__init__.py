"""What a job writes and checks: results, checkpoint, lease, run records, reconciliation with the catalog.

Everything here rests on files in storage and on nothing that a process remembers.
"""
