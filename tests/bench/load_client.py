"""
A gateway's side of the wire, in a process of its own: sends captured messages, measures answers.

Reads one order per line (JSON) from standard input and writes one result per line. All messages
of a run are made before its clock starts, so the client does little but send. Run by path.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from frames import CallFrames, Connection

from sidecar.wire import envoy_authz_pb2 as authz
from sidecar.wire import otlp_logs_pb2 as otlp

CHECK = "/envoy.service.auth.v3.Authorization/Check"
EXPORT = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
CHECK_TIMEOUT = "500m"  # As in the Envoy configuration that Sidecar writes.
EXPORT_TIMEOUT = "10S"
CONNECTIONS = 2
"""As an Envoy of two workers has."""
ATTEMPTS_MAX = 20
IDLE_SECONDS = 15.0
"""After it connections are opened anew: nobody answers a server's pings between two orders."""


class Client:
    """The connections, and the messages that go over them."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._address = order["address"]
        self._metadata: Mapping[str, str] = order["metadata"]
        self._captures = Path(order["captures"])
        self._secrets: list[str] = order["secrets"]
        self._tokens: list[str] = []
        self._stream = 0
        self._connections: list[Connection] = []
        self._used = time.monotonic()

    async def run(self, order: dict[str, Any]) -> dict[str, Any]:
        match order["do"]:
            case "hold":
                self._tokens = await self.place_holds(order["capture"], order["count"])
                return {}
            case "check":
                messages = self._checks(order["capture"], order["count"])
                return await self._load(
                    CHECK,
                    CHECK_TIMEOUT,
                    messages,
                    order["concurrency"],
                    _is_allow,
                    rate=order.get("rate", 0.0),
                )
            case "export":
                # The tokens of the order before; each is good for one capture.
                tokens, self._tokens = self._tokens, []
                messages = self.exports(order["capture"], tokens, order["batch"])
                return await self._load(
                    EXPORT,
                    EXPORT_TIMEOUT,
                    messages,
                    order["concurrency"],
                    lambda _: True,
                    rate=order.get("rate", 0.0),
                )
            case other:
                raise SystemExit(f"there is no order {other!r}")

    async def close(self) -> None:
        for connection in self._connections:
            await connection.close()
        self._connections = []

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

    def exports(self, capture: str, tokens: list[str], batch: int) -> list[bytes]:
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

    async def place_holds(self, capture: str, count: int) -> list[str]:
        """Tokens of that many holds, placed by checks."""
        tokens: list[str] = []

        def keep(raw: bytes) -> bool:
            fields = authz.CheckResponse.FromString(raw).dynamic_metadata.fields
            tokens.append(fields["sidecar_token"].string_value)
            return True

        # A check that got no answer is made anew: what is asked for here are holds, not times.
        for _ in range(ATTEMPTS_MAX):
            checks = self._checks(capture, count - len(tokens))
            result = await self._load(CHECK, CHECK_TIMEOUT, checks, 8, keep)
            if len(tokens) == count:
                assert all(tokens), "an answer held no token"
                return tokens
        raise SystemExit(f"of {count} holds {len(tokens)} were placed; at last: {result}")

    async def _load(
        self,
        path: str,
        patience: str,
        messages: list[bytes],
        concurrency: int,
        accept: Callable[[bytes], bool],
        *,
        rate: float = 0.0,
    ) -> dict[str, Any]:
        """
        Send everything, `concurrency` at a time; times are of all that were answered.

        With a rate, at so many a second whatever the answers do, each at its time.
        """
        used = min(CONNECTIONS, concurrency)
        if time.monotonic() - self._used > IDLE_SECONDS:
            await self.close()
        # One that this order does not use would stand idle for longer than is counted.
        while len(self._connections) > used:
            await self._connections.pop().close()
        while len(self._connections) < used:
            host, _, port = self._address.rpartition(":")
            self._connections.append(await Connection.open(host, int(port)))
        frames = CallFrames(path, list(self._metadata.items()), patience)
        work = []
        for place, connection in enumerate(self._connections[:used]):
            share = messages[place::used]
            sending = [frames.of(connection.calls + n, one) for n, one in enumerate(share)]
            work.append((connection, sending))
        cpu, started = time.process_time(), time.perf_counter()
        found = await asyncio.gather(
            *(
                connection.send(
                    sending, concurrency // used, every_seconds=used / rate if rate else 0.0
                )
                for connection, sending in work
            )
        )
        took, cpu = time.perf_counter() - started, time.process_time() - cpu
        self._used = time.monotonic()
        times = sorted(one for answered in found for one in answered.seconds)
        failed = {
            "denied": sum(not accept(raw) for answered in found for raw in answered.messages),
            "unanswered": sum(answered.refused for answered in found),
        }
        return {
            "sent": len(messages),
            "accepted": len(messages) - sum(failed.values()),
            "failed": {name: count for name, count in failed.items() if count},
            "seconds": took,
            "p50_ms": _quantile_ms(times, 0.50),
            "p99_ms": _quantile_ms(times, 0.99),
            "client_cpu_seconds": cpu,
        }


def _is_allow(raw: bytes) -> bool:
    return bool(authz.CheckResponse.FromString(raw).WhichOneof("http_response") == "ok_response")


def _quantile_ms(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1_000 if ordered else 0.0


async def main() -> None:
    client = Client(json.loads(sys.stdin.readline()))
    answer({})
    # Nothing else runs while an order is awaited, so a blocking read harms nobody.
    while line := sys.stdin.readline():
        answer(await client.run(json.loads(line)))
    await client.close()


def answer(content: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(content) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
