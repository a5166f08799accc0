"""The counts of a run's plans are added up."""

from __future__ import annotations

from collections import Counter

from pipeline.observer import Totals


def test_totals_of_two_plans() -> None:
    first, second = Totals(images=3, instances=5), Totals(images=2, instances=1)
    first.seconds.update(fetch=1.5, decode=2.0)
    second.seconds.update(fetch=0.5, encode=1.0)
    first.memory.update(fetch=100, decode=50)
    second.memory.update(fetch=80, encode=70)
    for name in ("started", "errors", "passed", "read", "reasons", "batches"):
        setattr(first, name, Counter({name: 1, "both": 2}))
        setattr(second, name, Counter({f"other {name}": 4, "both": 3}))
    first.add(second)
    assert (first.images, first.instances) == (5, 6)
    assert first.seconds == {"fetch": 2.0, "decode": 2.0, "encode": 1.0}
    assert first.memory == {"fetch": 100, "decode": 50, "encode": 70}
    for name in ("started", "errors", "passed", "read", "reasons", "batches"):
        assert getattr(first, name) == {name: 1, f"other {name}": 4, "both": 5}
