"""The stages of the Ray Data plan: source, fetch, decode, segment, encode.

Each takes a batch of rows and gives rows; an image that fails is a row with an error.
"""
