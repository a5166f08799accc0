"""How the network runs fast: folded and fused layers, compilation, prefetching, memory.

Nothing here changes what the network computes, beyond rounding.
"""
