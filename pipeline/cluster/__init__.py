"""The Ray cluster that a job runs on: connection, nodes, actor pool, windows, progress, metrics, shutdown.

No guarantee of a job rests on what is here: those rest on storage. Import the modules by path, because most load Ray.
"""
