"""What the commands share: console, options of `segment`, live display, summaries, row formats and exit message.

Import these by module path. None of them imports a large library.
"""
