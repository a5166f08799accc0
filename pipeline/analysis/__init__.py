"""What people do with an output: read it in Python, query it with SQL, evaluate it, look at its images.

Nothing here needs Ray or PyTorch. Import each module by its path, so that a command loads only what it uses.
"""
