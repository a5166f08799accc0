"""The data's way: catalog, fetch, decode, segment, encode, write, and reading it back."""
