"""The stages of the Ray Data plan: source, fetch, decode, segment, encode.

Each stage takes a batch of rows and yields blocks of rows, and an image that fails is a row with an error. Import the
stages by module path, because `segment` loads the network's code.
"""
