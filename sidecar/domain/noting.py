"""What a hold notes of its request for meters, since nobody else knows it later."""

from collections.abc import Iterable, Mapping

from sidecar.domain.customers import CustomerFacts
from sidecar.domain.matching import RequestView
from sidecar.domain.meter_values import REQUEST_FACTS_MAX
from sidecar.domain.meters import Meter

NOTED_CHARS_MAX = 128
"""Of one fact; a longer one is cut, so that a caller cannot make a hold's token grow."""

_HEADERS = "request.headers."
_LABELS = "customer.labels."


def note_request(
    meters: Iterable[Meter], view: RequestView, customer: CustomerFacts
) -> dict[str, str]:
    """
    The facts that meters name, by dotted names; one that is absent is "".

    A repeated header's values are joined by a comma, as expressions of rules see them.
    """
    noted = note_labels(meters, customer.labels)
    for name in _names(meters):
        match name:
            case "request.method":
                noted[name] = _cut(view.request.method)
            case "request.path":
                noted[name] = _cut(view.path)
            case "request.host":
                noted[name] = _cut(view.host)
            case _ if name.startswith(_HEADERS):
                values = view.request.headers.get(name.removeprefix(_HEADERS), ())
                noted[name] = _cut(", ".join(values))
    return noted


def depends_on_request(meters: Iterable[Meter]) -> bool:
    """Whether what is noted may differ between requests of one caller and method."""
    return any(name != "request.method" and not name.startswith(_LABELS) for name in _names(meters))


def labels_noted(meters: Iterable[Meter]) -> frozenset[str]:
    """The customer's labels that meters name."""
    names = {name for meter in meters for name in meter.request_facts}
    return frozenset(name.removeprefix(_LABELS) for name in names if name.startswith(_LABELS))


def note_labels(meters: Iterable[Meter], labels: Mapping[str, str]) -> dict[str, str]:
    """The labels that meters name, for usage that no check came before."""
    return {
        name: _cut(labels.get(name.removeprefix(_LABELS), ""))
        for name in _names(meters)
        if name.startswith(_LABELS)
    }


def _names(meters: Iterable[Meter]) -> list[str]:
    names = {name for meter in meters for name in meter.request_facts}
    return sorted(names)[:REQUEST_FACTS_MAX]


def _cut(text: str) -> str:
    return text[:NOTED_CHARS_MAX].encode("utf-8", "replace").decode()
