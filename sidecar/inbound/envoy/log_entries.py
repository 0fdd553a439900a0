"""
Log entries in one form, whichever way Envoy sent them, and what becomes of each.

Only a DownstreamEnd entry with a hold token that verifies is metered: other filters write to
the same metadata, and a client may choose ids that are logged. An entry without a hold is
never metered and never estimated; if it measured tokens all the same, a route lacks its
check, and the entry is set aside for people.
"""

import asyncio
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Protocol

from sidecar import telemetry
from sidecar.domain.errors import InvalidInput, StoreUnavailable
from sidecar.domain.thawing import quickly_made
from sidecar.domain.usage import TokenUsage, UsageFacts, UsageReport
from sidecar.inbound.extraction.token_usage import ExtractedUsage, UsageSources, extract_usage
from sidecar.services.hold_terms import MeterPrincipal
from sidecar.services.metering import UsageResult
from sidecar.services.ports import Clock, HoldTokens, Quarantine, RequestDigests

END: Final = "DownstreamEnd"
PERIODIC: Final = "DownstreamPeriodic"
LOG_TYPES: Final = frozenset(
    {
        END,
        PERIODIC,
        "DownstreamStart",
        "DownstreamTunnelSuccessfullyEstablished",
        "NotSet",
        "TcpConnectionEnd",
        "TcpConnectionStart",
        "TcpPeriodic",
        "TcpUpstreamConnected",
        "UdpPeriodic",
        "UdpSessionEnd",
        "UdpTunnelUpstreamConnected",
        "UpstreamEnd",
        "UpstreamPeriodic",
        "UpstreamPoolReady",
    }
)

OTHER_LOG: Final = "other_log"
"""Log type of an entry that another logger sent to the same receiver."""

_LOCAL: Final = {
    "ext_authz_denied": "ext_authz_denied",
    "ext_authz_error": "ext_authz_error",
    "direct_response": "direct_response",
    "route_not_found": "route_not_found",
    "path_normalization_failed": "path_refused",
    "http1": "codec_error",
    "http2": "codec_error",
    "http3": "codec_error",
    "codec_error": "codec_error",
}
"""RESPONSE_CODE_DETAILS, up to their first delimiter, of answers that no upstream gave."""


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """
    One request as an access logger saw it.

    `log_type` is a member of LOG_TYPES, "other" or OTHER_LOG. Sizes are bytes, duration
    milliseconds; `status` is None if there was no response. `facts` are the connection, start
    and stream as the gateway wrote them, `response` what meters asked the log to tell. `problem`
    says that a part could not be read.
    """

    log_type: str
    details: str = ""
    hold_token: str = ""
    sources: UsageSources = field(default_factory=UsageSources)
    status: int | None = None
    started_at: datetime | None = None
    duration_ms: int | None = None
    request_bytes: int | None = None
    response_bytes: int | None = None
    route: str = ""
    request_id: bytes = b""
    facts: tuple[bytes, ...] = ()
    response: UsageFacts = field(default_factory=UsageFacts)
    problem: str = ""


class Metering(Protocol):
    """What the log receivers need of services.metering.MeteringService."""

    async def capture_each(
        self, reports: Sequence[UsageReport], principal: MeterPrincipal
    ) -> Sequence[UsageResult | Exception]:
        """Capture reports; for each its result, or what was raised for it (StoreUnavailable)."""

    async def keep_alive(self, report: UsageReport, principal: MeterPrincipal) -> bool:
        """Extend a hold; may raise InvalidInput or StoreUnavailable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """Who sent a batch: verified, and its own word for the gateway."""

    principal: MeterPrincipal
    gateway_id: str


class LogIntake:
    """Turns entries into captures, signs of life, quarantine or a count, each on its own."""

    def __init__(
        self,
        *,
        edge: str,
        metering: Metering,
        quarantine: Quarantine,
        tokens: HoldTokens,
        digests: RequestDigests,
        clock: Clock,
        concurrency_max: int = 64,
    ) -> None:
        """
        Wire the ports.

        Args:
            edge: Label of the counts: "otlp" or "als".
            metering, quarantine, tokens, digests, clock: Ports.
            concurrency_max: Entries of one batch that are under way at a time.
        """
        self._edge = edge
        self._metering = metering
        self._quarantine = quarantine
        self._tokens = tokens
        self._digests = digests
        self._clock = clock
        self._concurrency_max = concurrency_max

    def count(self, outcome: str, times: int = 1) -> None:
        """Count entries, or calls, that came to nothing else."""
        telemetry.USAGE_EVENTS.labels(self._edge, outcome).inc(times)

    async def take(self, entries: Sequence[LogEntry], sender: Sender) -> list[LogEntry]:
        """
        Do what each entry asks for.

        Safe to cancel and to repeat: captures collapse on their hold ids.

        Returns:
            The entries that the store gave no answer for; repeat these.
        """
        idle: Counter[str] = Counter()
        waiting = []
        for entry in entries:
            if _needs_store(entry):
                waiting.append(entry)
            else:
                idle[_idle_outcome(entry)] += 1
        for outcome, times in idle.items():
            self.count(outcome, times)
        left: list[LogEntry] = []
        for start in range(0, len(waiting), self._concurrency_max):
            left += await self._take_some(waiting[start : start + self._concurrency_max], sender)
        return left

    async def _take_some(self, entries: Sequence[LogEntry], sender: Sender) -> list[LogEntry]:
        """Usage of holds together, whatever else there is each on its own."""
        now = self._clock.now()
        measured: list[LogEntry] = []
        reports: list[UsageReport] = []
        others: list[LogEntry] = []
        for entry in entries:
            try:
                report = self._measured(entry, sender, now)
            except Exception as error:  # noqa: BLE001  One entry's bug must not cost its neighbours.
                self._count_failure(error)
                continue
            if report is None:
                others.append(entry)
            else:
                measured.append(entry)
                reports.append(report)
        left: list[LogEntry] = []
        if reports:
            results = await self._metering.capture_each(reports, sender.principal)
            for entry, result in zip(measured, results, strict=True):
                if isinstance(result, StoreUnavailable):
                    left.append(entry)
                elif isinstance(result, Exception):
                    self._count_failure(result)
        if others:
            ends = await asyncio.gather(*(self._take_one(entry, sender) for entry in others))
            left += [entry for entry in ends if entry is not None]
        return left

    def _measured(self, entry: LogEntry, sender: Sender, now: datetime) -> UsageReport | None:
        """The report of a finished request that has a hold, if its usage can be read."""
        if entry.log_type == PERIODIC or not entry.hold_token:
            return None
        extracted = _extract(entry)
        return None if extracted is None else self._report(entry, extracted, sender, now)

    async def _take_one(self, entry: LogEntry, sender: Sender) -> LogEntry | None:
        try:
            outcome = await self._settle(entry, sender)
        except StoreUnavailable:
            return entry
        except Exception as error:  # noqa: BLE001  One entry's bug must not cost its neighbours.
            self._count_failure(error)
            return None
        if outcome:
            self.count(outcome)
        return None

    def _count_failure(self, error: Exception) -> None:
        telemetry.WORKER_FAILURES.labels("log_intake").inc()
        telemetry.get_logger().error(
            "log_entry_failed",
            edge=self._edge,
            error=type(error).__name__,
            frames=traceback.format_tb(error.__traceback__)[-4:],
        )
        self.count("failed")

    async def _settle(self, entry: LogEntry, sender: Sender) -> str:
        """
        Take what is no usage of a hold, as far as can be read.

        Returns the outcome to count, or "" where the service has counted it.
        """
        if entry.log_type == PERIODIC:
            return await self._keep_alive(entry, sender)
        extracted = _extract(entry)
        if not entry.hold_token:
            return await self._without_hold(entry, extracted, sender)
        return await self._unparsable(entry, sender)

    async def _keep_alive(self, entry: LogEntry, sender: Sender) -> str:
        report = self._report(entry, _NOTHING, sender, self._clock.now())
        try:
            await self._metering.keep_alive(report, sender.principal)
        except InvalidInput:
            return "rejected"
        return ""

    async def _without_hold(
        self, entry: LogEntry, extracted: ExtractedUsage | None, sender: Sender
    ) -> str:
        """Somebody used tokens and no check had held for them."""
        key = self._digests.request_digest(
            b"unattributed", sender.principal.name.encode(), *entry.facts
        )
        report = self._report(entry, extracted or _NOTHING, sender, self._clock.now())
        await self._set_aside(report, reason="unattributed", key=key.hex())
        return "quarantined"

    async def _unparsable(self, entry: LogEntry, sender: Sender) -> str:
        try:
            terms = self._tokens.read(entry.hold_token)
        except InvalidInput:
            return "rejected"
        if not sender.principal.covers(terms):
            return "rejected"
        report = self._report(entry, _NOTHING, sender, self._clock.now())
        await self._set_aside(report, reason="unparsable_usage", key=terms.hold_id)
        return "quarantined"

    async def _set_aside(self, report: UsageReport, *, reason: str, key: str) -> None:
        await self._quarantine.put(report, reason=reason, key=key)
        telemetry.QUARANTINED.labels(reason).inc()
        telemetry.get_logger().warning(
            "usage_quarantined", edge=self._edge, reason=reason, key=key, route=report.route
        )

    def _report(
        self, entry: LogEntry, extracted: ExtractedUsage, sender: Sender, now: datetime
    ) -> UsageReport:
        return UsageReport(
            edge=self._edge,
            gateway_id=sender.gateway_id,
            received_at=now,
            usage=extracted.usage,
            hold_token=entry.hold_token,
            model=entry.sources.model,
            status=entry.status,
            occurred_at=entry.started_at,
            duration_ms=entry.duration_ms,
            request_bytes=entry.request_bytes,
            response_bytes=entry.response_bytes,
            route=entry.route,
            request_id=entry.request_id,
            from_header=extracted.from_header,
            facts=entry.response,
        )


def no_hold_reason(details: str) -> str:
    """A bounded word for why an entry has no hold, from Envoy's RESPONSE_CODE_DETAILS."""
    for index, char in enumerate(details):
        if not (char.isalnum() or char == "_"):
            details = details[:index]
            break
    if details in _LOCAL:
        return _LOCAL[details]
    if details == "via_upstream":
        return details
    if details.startswith("upstream_"):
        return "upstream_error"
    if details.startswith("downstream_"):
        return "downstream_error"
    return "other" if details else "unknown"


_NOTHING: Final = ExtractedUsage(usage=TokenUsage())
_LOCAL_REASONS: Final = frozenset(_LOCAL.values())


def _extract(entry: LogEntry) -> ExtractedUsage | None:
    """The entry's usage, or None if it holds what is no usage."""
    if entry.problem:
        return None
    try:
        return extract_usage(entry.sources)
    except InvalidInput:
        return None


def _needs_store(entry: LogEntry) -> bool:
    if entry.log_type == PERIODIC:
        return bool(entry.hold_token)
    if entry.log_type != END:
        return False
    return bool(entry.hold_token) or _measured_without_hold(entry)


def _measured_without_hold(entry: LogEntry) -> bool:
    if no_hold_reason(entry.details) in _LOCAL_REASONS:
        # Envoy or this service gave the answer; nobody's tokens were used.
        return False
    extracted = _extract(entry)
    if extracted is None:
        return True
    return not extracted.usage.missing or extracted.usage.total is not None


def _idle_outcome(entry: LogEntry) -> str:
    if entry.log_type != END:
        return f"ignored_{entry.log_type}"
    return f"no_hold_{no_hold_reason(entry.details)}"
