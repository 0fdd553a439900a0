"""
Metrics of several workers as one text: what counts is added up, what is a state is told of each.

A worker that ended keeps its part of the sums, so that no counter goes back when it is replaced.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

_ADDED: Final = frozenset({"counter", "histogram", "summary"})
_CREATED: Final = "_created"
WORKER_LABEL: Final = "worker"
Key = tuple[str, tuple[tuple[str, str], ...]]


class WorkerMetrics:
    """The latest text of each worker, and the sums of those that ended."""

    def __init__(self) -> None:
        """Know no worker."""
        self._latest: dict[int, str] = {}
        self._ended = ""

    def take(self, worker: int, text: str) -> None:
        """Keep what a worker published last."""
        self._latest[worker] = text

    def retire(self, worker: int) -> None:
        """A worker's process ended: its counts stay, its states go."""
        text = self._latest.pop(worker, None)
        if text is not None:
            self._ended = text_of(_merge([_families(self._ended), _families(text)], {}))

    def text(self, own: CollectorRegistry) -> bytes:
        """All of it, with the supervisor's own metrics, in Prometheus' text format."""
        workers = {str(worker): _families(text) for worker, text in sorted(self._latest.items())}
        merged = _merge([_families(self._ended), *workers.values()], workers)
        return text_of(merged).encode() + generate_latest(own)


class _Given(CollectorRegistry):
    """Metrics as they are."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        super().__init__(auto_describe=False)
        self._metrics = list(metrics)

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics


def text_of(metrics: Iterable[Metric]) -> str:
    """Metrics that were collected, in Prometheus' text format."""
    return generate_latest(_Given(metrics)).decode()


def _merge(
    counted: Iterable[Sequence[Metric]], states: Mapping[str, Sequence[Metric]]
) -> list[Metric]:
    """Counters and histograms of the first added up; gauges of the second by worker."""
    sums: dict[str, _Sum] = {}
    for families in counted:
        for family in families:
            if family.type in _ADDED:
                sums.setdefault(family.name, _Sum(family)).add(family)
    merged = {name: one.metric() for name, one in sums.items()}
    for worker, families in states.items():
        for family in families:
            if family.type not in _ADDED:
                metric = merged.setdefault(family.name, _empty(family))
                for sample in family.samples:
                    labels = {**sample.labels, WORKER_LABEL: worker}
                    metric.add_sample(sample.name, labels, sample.value)
    return list(merged.values())


class _Sum:
    """A counter or histogram of several workers."""

    def __init__(self, family: Metric) -> None:
        self._empty = _empty(family)
        self._values: dict[Key, float] = {}

    def add(self, family: Metric) -> None:
        for sample in family.samples:
            key = (sample.name, tuple(sample.labels.items()))
            self._values[key] = self._values.get(key, 0.0) + sample.value

    def metric(self) -> Metric:
        for (name, labels), value in self._values.items():
            self._empty.add_sample(name, dict(labels), value)
        return self._empty


def _families(text: str) -> list[Metric]:
    """The metrics of a text; when each was created says nothing of several processes."""
    found = text_string_to_metric_families(text)
    return [family for family in found if not family.name.endswith(_CREATED)]


def _empty(family: Metric) -> Metric:
    return Metric(family.name, family.documentation, family.type)
