"""The subcommands of `maskfleet benchmark`, one module each.

A command imports PyTorch, Ray and the network only when it runs, so that its help appears at once. Measurements that
need them at module level are in `gpu_stages`, `model_sides` and `precision_parts`.
"""
