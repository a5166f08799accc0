"""The size of windows: they fit the object store."""

from __future__ import annotations

from pipeline.cluster.windows import images_in_store, window_size


def test_windows_fit_the_memory_of_the_nodes_that_hold_actors() -> None:
    size = 800 * 1333 * 3
    beside = [{"CPU": 4, "object_store_memory": 10**12}, {"object_store_memory": 1}]

    def window(node: dict[str, float], image_bytes: int = size) -> int:
        stored = images_in_store([node, *beside], lambda n: int(n.get("GPU", 0)), image_bytes)
        return window_size(10**6, 16, 10**6, stored)

    assert window({"CPU": 4, "GPU": 8, "object_store_memory": 10**12}) == 4884
    assert window({"GPU": 1, "object_store_memory": 16 * 10**9}) == 625  # as in cluster.yaml
    assert window({"GPU": 1, "object_store_memory": 16 * 10**9}, 5 * 10**8) == 4  # as slides of 500 MB
    assert window({"GPU": 1, "object_store_memory": 16 * 10**9}, 10**11) == 1
