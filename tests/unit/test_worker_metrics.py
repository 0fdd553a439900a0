"""Metrics of several workers: nothing that counts goes back, no state is added up."""

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from sidecar.app.worker_metrics import WorkerMetrics

OWN = CollectorRegistry()


class Worker:
    """One life of a worker, with metrics as the program has them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.checks = Counter("checks_total", "Checks.", ["edge"], registry=self.registry)
        self.seconds = Histogram("seconds", "Time.", buckets=(0.1, 1.0), registry=self.registry)
        self.open = Gauge("open", "Open now.", registry=self.registry)

    def text(self) -> str:
        return generate_latest(self.registry).decode()


def values(metrics: WorkerMetrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = metrics.text(OWN).decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, f"{key} is told twice"
            found[key] = sample.value
    return found


steps = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["count", "publish", "die"])), max_size=40
)


@settings(max_examples=60, deadline=None)
@given(steps)
def test_sums_are_of_all_that_was_published_and_never_go_back(steps):
    metrics, workers = WorkerMetrics(), {number: Worker() for number in range(3)}
    made = dict.fromkeys(workers, 0)
    heard = dict.fromkeys(workers, 0)
    ended, last = 0, 0.0
    for number, step in steps:
        worker = workers[number]
        if step == "count":
            worker.checks.labels("grpc").inc()
            worker.seconds.observe(0.5)
            worker.open.set(made[number])
            made[number] += 1
        elif step == "publish":
            metrics.take(number, worker.text())
            heard[number] = made[number]
        else:
            metrics.retire(number)
            ended += heard[number]
            workers[number] = Worker()
            made[number] = heard[number] = 0
        found = values(metrics)
        total = found.get(("checks_total", (("edge", "grpc"),)), 0.0)
        assert total == ended + sum(heard.values())
        assert total >= last
        last = total
        assert found.get(("seconds_bucket", (("le", "1.0"),)), 0.0) == total
        assert found.get(("seconds_sum", ()), 0.0) == total * 0.5


def test_a_state_is_told_of_each_worker_and_ends_with_it():
    metrics, first, second = WorkerMetrics(), Worker(), Worker()
    first.open.set(3)
    second.open.set(4)
    metrics.take(0, first.text())
    metrics.take(1, second.text())
    found = values(metrics)
    assert found["open", (("worker", "0"),)] == 3
    assert found["open", (("worker", "1"),)] == 4
    metrics.retire(0)
    found = values(metrics)
    assert ("open", (("worker", "0"),)) not in found
    assert found["open", (("worker", "1"),)] == 4
