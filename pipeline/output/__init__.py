"""What a job writes besides the catalog, and checks: results, checkpoint, lease, run records, reconciliation.

The state of an output is in its files; no process has to remember anything. Import each module by its path: `results`,
`checkpoint` and `reconciliation` load Ray, the others do not.
"""
