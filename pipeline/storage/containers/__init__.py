"""Reads the containers that hold images: tar and .tgz files, and columns of Parquet files.

Each module finds the images of a container and reads their bytes from a file that is fetched in ranges.
"""
