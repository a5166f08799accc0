"""What the demo and the tests use: a real S3 server on loopback, and pictures of results."""
