"""Jobs that are submitted to one cluster of several nodes. As a package, so that the cluster ends with its tests."""
