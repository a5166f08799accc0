"""The job: it catalogues images, fetches, decodes, segments and encodes them on Ray Data, and reads results back.

Import from its packages and modules by path, so that reading results does not load Ray or PyTorch.
"""
