"""The commands of Maskfleet, one module each; `main` collects them as the `maskfleet` command.

`terminal` holds what the commands share, `benchmarks` the parts of `maskfleet benchmark`, `sample` the data and the S3
server of the demo. The modules of commands import large libraries inside their functions, so that help starts at once.
"""
