"""Helpers of several tests: commands in this process, clusters of raylets, faults, outputs and shards to read."""
