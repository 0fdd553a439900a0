"""
ext_authz: Envoy's Check, answered by the check service.

Whatever goes wrong here is a gRPC error, so that Envoy's own settings for a failing check
apply; nothing but a decision allows.
"""

import asyncio
import os
import time
from collections.abc import Callable
from datetime import timedelta
from functools import lru_cache
from typing import Final, Protocol

from google.protobuf.message import DecodeError
from prometheus_client import Counter

from sidecar import telemetry
from sidecar.domain.decisions import Allow, Decision, DenyReason
from sidecar.domain.errors import StoreUnavailable
from sidecar.domain.requests import AccessRequest
from sidecar.inbound.envoy.authz_answer import encode_allow, encode_deny
from sidecar.inbound.envoy.authz_request import EDGE, CheckLimits, HoldIds, ReadCheck, read_check
from sidecar.inbound.grpc.call_tasks import CallTasks
from sidecar.inbound.grpc.engine import Call, GrpcError, GrpcStatus, UnaryMethod
from sidecar.inbound.grpc.metadata import FindPrincipal, authenticate_gateway, gateway_id
from sidecar.services.ports import Clock, RequestDigests
from sidecar.wire import envoy_authz_pb2 as wire

CHECK_PATH: Final = "/envoy.service.auth.v3.Authorization/Check"

ANSWER_SECONDS: Final = 0.02
"""Kept of the gateway's time for the answer's way back."""

_DURATION: Final = telemetry.CHECK_DURATION.labels(EDGE)
_ERROR_REASONS: Final = {GrpcStatus.UNAVAILABLE: "store_unavailable"}


class Checks(Protocol):
    """What this edge needs of services.check.CheckService."""

    async def check(self, request: AccessRequest) -> Decision:
        """Decide, and hold if it may pass."""

    async def abandon(self, decision: Decision) -> None:
        """Give back the hold of an allow that nobody heard."""


class CheckHandler:
    """Serves Check: bytes in, bytes out, and no hold left behind for an answer that came late."""

    def __init__(
        self,
        *,
        checks: Checks,
        digests: RequestDigests,
        clock: Clock,
        find_principal: FindPrincipal,
        checks_open: bool,
        limits: CheckLimits | None = None,
        wait_seconds_max: float = 0.5,
        abandon_seconds_max: float = 2.0,
        checks_max: int = 1_024,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """
        Wire the handler.

        Args:
            checks, digests, clock: Ports.
            find_principal: Who a token belongs to.
            checks_open: Whether a check needs no token: on loopback and unix sockets only.
            limits: What is too large is denied.
            wait_seconds_max: How long a check may take where the gateway would wait longer.
            abandon_seconds_max: How long an unheard check may go on until its hold is given
                back; after that the hold expires by itself.
            checks_max: Under way at a time.
            random_bytes: For hold ids where the gateway sent no facts to derive one from.
        """
        self._checks = checks
        self._clock = clock
        self._find_principal = find_principal
        self._checks_open = checks_open
        self._limits = limits or CheckLimits()
        self._hold_ids = HoldIds(digests=digests, random_bytes=random_bytes)
        self._wait_seconds_max = wait_seconds_max
        self._abandon_seconds_max = abandon_seconds_max
        self._tasks = CallTasks("check", checks_max)

    def methods(self) -> tuple[UnaryMethod, ...]:
        """The methods to serve."""
        return (UnaryMethod(CHECK_PATH, self.check),)

    async def check(self, data: bytes, call: Call) -> bytes:
        """
        Answer one check.

        If the caller gives up, a hold that was or is being placed is given back.

        Raises:
            GrpcError: UNAVAILABLE if the store gave no answer and no rule says otherwise,
                DEADLINE_EXCEEDED, INVALID_ARGUMENT, UNAUTHENTICATED, RESOURCE_EXHAUSTED.
        """
        started = time.perf_counter()
        decision, reason = "error", "internal_error"
        try:
            answer, decision, reason = await self._answer(data, call)
        except GrpcError as error:
            reason = _ERROR_REASONS.get(error.code, error.code.name.lower())
            raise
        except asyncio.CancelledError:
            reason = "cancelled"
            raise
        finally:
            _counted(decision, reason).inc()
            _DURATION.observe(time.perf_counter() - started)
        return answer

    async def drain(self, grace_seconds: float) -> None:
        """Give back what nobody waits for any more; call it after the server has stopped."""
        await self._tasks.drain(grace_seconds)

    async def _answer(self, data: bytes, call: Call) -> tuple[bytes, str, str]:
        """The answer's bytes, and the decision and reason to count."""
        gateway = gateway_id(call)
        if not self._checks_open:
            authenticate_gateway(call, self._find_principal, gateway)
        seconds = self._seconds_for_check(call)
        try:
            message = wire.CheckRequest.FromString(data)
        except DecodeError as error:
            raise GrpcError(
                GrpcStatus.INVALID_ARGUMENT, "the message is no CheckRequest"
            ) from error
        now = self._clock.now()
        read = read_check(
            message,
            gateway_id=gateway,
            hold_ids=self._hold_ids,
            now=now,
            deadline=now + timedelta(seconds=seconds),
            limits=self._limits,
        )
        return await self._decide(read, call, seconds)

    def _seconds_for_check(self, call: Call) -> float:
        left = call.seconds_left()
        if left is None:
            return self._wait_seconds_max
        if left <= ANSWER_SECONDS:
            raise _too_late()
        return min(left - ANSWER_SECONDS, self._wait_seconds_max)

    async def _decide(self, read: ReadCheck, call: Call, seconds: float) -> tuple[bytes, str, str]:
        if read.request is None:
            assert read.refusal is not None
            return encode_deny(read.refusal), "deny", read.refusal.reason.value
        # A task of its own: a cancelled call must not cut a store call in two, after which
        # nobody could tell whether there is a hold to give back.
        work = self._tasks.start(self._checks.check(read.request))
        heard = False
        try:
            await self._tasks.wait(work, seconds)
            if not work.done():
                raise _too_late()
            decision = _result(work)
            if isinstance(decision, Allow):
                answer = encode_allow(decision, read.forged), "allow", ""
            elif decision.reason is DenyReason.STORE_UNAVAILABLE:
                raise GrpcError(GrpcStatus.UNAVAILABLE, "the decision could not be taken in time")
            else:
                answer = encode_deny(decision), "deny", decision.reason.value
            left = call.seconds_left()
            if left is not None and left <= 0:
                raise _too_late()
            heard = True
        finally:
            if not heard:
                self._tasks.leave(self._abandon(work, read.request.hold_id))
        return answer

    async def _abandon(self, work: "asyncio.Task[Decision]", hold_id: str) -> None:
        """Give the hold back once the check has ended, which its store calls' timeouts see to."""
        await asyncio.wait({work}, timeout=self._abandon_seconds_max)
        if not work.done():
            work.cancel()
            telemetry.get_logger().warning("hold_release_skipped", hold_id=hold_id)
            return
        if work.cancelled() or work.exception() is not None:
            return
        await self._checks.abandon(work.result())


@lru_cache(maxsize=256)
def _counted(decision: str, reason: str) -> Counter:
    """Looked up once: finding a metric by its labels costs more than counting."""
    return telemetry.CHECKS.labels(EDGE, decision, reason)


def _result(work: "asyncio.Task[Decision]") -> Decision:
    try:
        return work.result()
    except StoreUnavailable as error:
        raise GrpcError(GrpcStatus.UNAVAILABLE, "the store did not answer in time") from error


def _too_late() -> GrpcError:
    return GrpcError(GrpcStatus.DEADLINE_EXCEEDED, "the check could not be answered in time")
