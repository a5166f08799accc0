"""Environment variables of every Ray that the tests start. Importing this sets them; some count only before Ray is
imported.
"""

from __future__ import annotations

import os

# Ray ends a worker process that has been idle for a second. A job would then spend most of its time on importing
# torch in new processes.
WARM = {"RAY_idle_worker_killing_time_threshold_ms": "600000", "RAY_num_workers_soft_limit": "6"}

os.environ |= {
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that wait by spinning take the cores from the other worker's tests
    "RAY_worker_niceness": "0",  # or the other worker's tests would have all of both cores
    "RAY_raylet_start_wait_time_s": "60",  # on a busy machine a node may take longer to start than Ray's 30 s
    "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": "80000000",  # see test_small_store; Ray's least is 75 MB
    "RAY_DEDUP_LOGS": "0",
    **WARM,
    # What each node of Ray does beside its work takes some percent of a core:
    "LOG_NAME_UPDATE_INTERVAL_S": "3600",  # look for new log files; no test reads what workers print
    "REPORTER_UPDATE_INTERVAL_MS": "20000",  # look at what its processes use
    "RAY_enable_metrics_collection": "0",  # collect metrics, which `Raylets` does
}
