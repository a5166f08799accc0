"""What several tests use: clusters of raylets, faults, outputs and shards to read."""
