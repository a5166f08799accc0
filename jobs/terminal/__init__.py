"""What the commands share: the console, options, the live display, summaries."""
