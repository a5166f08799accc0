"""Bytes to 8-bit RGB: one place decides for every format.

`decoder` is the door; the other modules read what Pillow does not.
"""
