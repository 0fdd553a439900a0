"""
A gateway's side of the wire, in a process of its own: sends captured messages, measures answers.

Reads one order per line (JSON) from standard input and writes one result per line. All messages
of a run are made before its clock starts, so the client does little but send. Run by path.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
from grpc import aio

from sidecar.wire import envoy_authz_pb2 as authz
from sidecar.wire import otlp_logs_pb2 as otlp

CHECK = "/envoy.service.auth.v3.Authorization/Check"
EXPORT = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
CHECK_SECONDS = 0.5  # As in the Envoy configuration that Sidecar writes.
EXPORT_SECONDS = 10.0
ATTEMPTS_MAX = 20


class Client:
    """One connection, as one Envoy worker has, and its messages."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._metadata = tuple(order["metadata"].items())
        self._captures = Path(order["captures"])
        self._secrets: list[str] = order["secrets"]
        self._tokens: list[str] = []
        self._stream = 0
        self._channel = aio.insecure_channel(order["address"])

    async def run(self, order: dict[str, Any]) -> dict[str, Any]:
        match order["do"]:
            case "hold":
                self._tokens = await self._place_holds(order["capture"], order["count"])
                return {}
            case "check":
                messages = self._checks(order["capture"], order["count"])
                return await self._load(
                    CHECK, CHECK_SECONDS, messages, order["concurrency"], _is_allow
                )
            case "export":
                # The tokens of the order before; each is good for one capture.
                tokens, self._tokens = self._tokens, []
                messages = self._exports(order["capture"], tokens, order["batch"])
                return await self._load(
                    EXPORT, EXPORT_SECONDS, messages, order["concurrency"], lambda _: True
                )
            case other:
                raise SystemExit(f"there is no order {other!r}")

    async def close(self) -> None:
        await self._channel.close()

    def _checks(self, capture: str, count: int) -> list[bytes]:
        """The captured check with a credential of ours; each is another request of its second."""
        message = authz.CheckRequest.FromString((self._captures / f"{capture}.bin").read_bytes())
        request = message.attributes.request
        request.time.seconds = int(time.time())
        http = request.http
        rows = [*http.headers, *http.header_map.headers]
        credential = next(row for row in rows if row.key == b"authorization")
        is_raw = bool(credential.raw_value)
        messages = []
        for _ in range(count):
            self._stream += 1
            http.id = str(self._stream).encode()
            secret = f"Bearer {self._secrets[self._stream % len(self._secrets)]}".encode()
            setattr(credential, "raw_value" if is_raw else "value", secret)
            messages.append(message.SerializeToString())
        return messages

    def _exports(self, capture: str, tokens: list[str], batch: int) -> list[bytes]:
        """Batches of the captured record, each record with the token of a hold of its own."""
        request = otlp.ExportLogsServiceRequest.FromString(
            (self._captures / f"{capture}.bin").read_bytes()
        )
        records = request.resource_logs[0].scope_logs[0].log_records
        template = records[0].SerializeToString()
        exports = []
        for start in range(0, len(tokens), batch):
            del records[:]
            for offset, token in enumerate(tokens[start : start + batch]):
                record = otlp.LogRecord.FromString(template)
                values = {row.key: row.value for row in record.attributes}
                values[b"hold_token"].string_value = token.encode()
                values[b"stream"].string_value = str(start + offset).encode()
                values[b"start"].string_value = f"{time.time():.9f}".encode()
                records.append(record)
            exports.append(request.SerializeToString())
        return exports

    async def _place_holds(self, capture: str, count: int) -> list[str]:
        """Tokens of that many holds, placed by checks."""
        tokens: list[str] = []

        def keep(raw: bytes) -> bool:
            fields = authz.CheckResponse.FromString(raw).dynamic_metadata.fields
            tokens.append(fields["sidecar_token"].string_value)
            return True

        # A check that got no answer is made anew: what is asked for here are holds, not times.
        for _ in range(ATTEMPTS_MAX):
            checks = self._checks(capture, count - len(tokens))
            result = await self._load(CHECK, CHECK_SECONDS, checks, 8, keep)
            if len(tokens) == count:
                assert all(tokens), "an answer held no token"
                return tokens
        raise SystemExit(f"of {count} holds {len(tokens)} were placed; at last: {result}")

    async def _load(
        self,
        path: str,
        seconds: float,
        messages: list[bytes],
        concurrency: int,
        accept: Callable[[bytes], bool],
    ) -> dict[str, Any]:
        """Send everything, `concurrency` at a time; times are of answers that were accepted."""
        method = self._channel.unary_unary(path)
        times: list[float] = []
        failed: Counter[str] = Counter()
        waiting: Iterator[bytes] = iter(messages)

        async def sender() -> None:
            for message in waiting:
                sent = time.perf_counter()
                try:
                    raw = await method(message, timeout=seconds, metadata=self._metadata)
                except grpc.RpcError as error:
                    failed[error.code().name] += 1
                    continue
                took = time.perf_counter() - sent
                if accept(raw):
                    times.append(took)
                else:
                    failed["denied"] += 1

        cpu, started = time.process_time(), time.perf_counter()
        await asyncio.gather(*(sender() for _ in range(concurrency)))
        took = time.perf_counter() - started
        times.sort()
        return {
            "sent": len(messages),
            "accepted": len(times),
            "failed": dict(failed),
            "seconds": took,
            "p50_ms": _quantile_ms(times, 0.50),
            "p99_ms": _quantile_ms(times, 0.99),
            "client_cpu_seconds": time.process_time() - cpu,
        }


def _is_allow(raw: bytes) -> bool:
    return bool(authz.CheckResponse.FromString(raw).WhichOneof("http_response") == "ok_response")


def _quantile_ms(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1_000 if ordered else 0.0


async def main() -> None:
    client = Client(json.loads(sys.stdin.readline()))
    _answer({})
    # Nothing else runs while an order is awaited, so a blocking read harms nobody.
    while line := sys.stdin.readline():
        _answer(await client.run(json.loads(line)))
    await client.close()


def _answer(content: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(content) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
