"""Usage that nobody may report, or that says what cannot be: refused and counted, nothing moves."""

import base64
import hmac
import io
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from fixtures.grpc_edges import ended, export
from fixtures.hostile import chat_body
from fixtures.stack import CHAT, Stack

from sidecar.domain.usage import QUANTITY_MAX
from sidecar.wire import envoy_access_log_pb2 as als
from sidecar.wire import envoy_token_usage_pb2 as token_usage
from sidecar.wire import usage_service_pb2 as ingest
from sidecar.wire.hold_token_pb2 import HoldToken, SignedHoldToken

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

CHECK = "/envoy.service.auth.v3.Authorization/Check"
EXPORT = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
STREAM = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
INGEST = "/sidecar.v1.UsageService/Ingest"
HEALTH = "/grpc.health.v1.Health/Check"
SENDERS = ["otlp", "als", "ingest", "http"]
USED_NANO = 11 * 500 + 7 * 1_500
HELD_NANO = len(chat_body()) * 500 + 50 * 1_500


class Direct:
    """Speaks to the sidecar's own ports, as anybody could who reaches them."""

    def __init__(self, stack: Stack, channel: "grpc.aio.Channel") -> None:
        self.stack = stack
        self._channel = channel
        self.proof: tuple[tuple[str, str], ...] = (("x-sidecar-token", stack.gateway_token),)

    async def call(self, path: str, data: bytes, proof: Any = None) -> bytes:
        answer = await self._channel.unary_unary(path)(
            data, metadata=self.proof if proof is None else proof, timeout=20
        )
        assert isinstance(answer, bytes)
        return answer

    async def stream(self, *messages: bytes, proof: Any = None) -> None:
        call = self._channel.stream_unary(STREAM)(
            iter(messages), metadata=self.proof if proof is None else proof, timeout=20
        )
        await call

    async def post(self, events: Any, token: str | None = None, **options: Any) -> tuple[int, Any]:
        headers = {
            "authorization": f"Bearer {self.stack.gateway_token if token is None else token}"
        }
        url = f"http://{self.stack.http}/v1/usage"
        options = options or {"json": {"events": events}}
        async with self.stack.session.post(url, headers=headers, **options) as response:
            return response.status, await response.json(content_type=None)

    async def hold(self, key: str) -> dict[str, Any]:
        """Check as a gateway does; the answer has the hold's id and token."""
        body = {"method": "POST", "path": CHAT, "host": "api.test", "body": chat_body().decode()}
        body["headers"] = {"authorization": f"Bearer {key}"}
        url = f"http://{self.stack.http}/v1/check"
        async with self.stack.session.post(url, json=body) as response:
            answer: dict[str, Any] = await response.json()
        assert answer["allow"], answer
        return answer

    async def send(self, sender: str, token: str, *, proof: Any = None, **usage: Any) -> str:
        """Report 11 and 7 tokens, or what `usage` says, through one intake; its word for it."""
        counts = {"input": 11, "output": 7} | usage
        match sender:
            case "otlp":
                values = {f"ai_{kind}": str(count) for kind, count in counts.items()}
                await self.call(EXPORT, export(ended(token, **values)), proof)
            case "als":
                await self.stream(als_message(token, **counts), proof=proof)
            case "ingest":
                answer = await self.call(INGEST, ingest_message(token, **counts), proof)
                result = ingest.IngestResponse.FromString(answer).results[0]
                return ingest.IngestResult.Outcome.Name(result.outcome).lower()
            case "http":
                status, body = await self.post([{"hold_token": token, "usage": counts}])
                assert status == 202
                return str(body["results"][0]["outcome"])
        return ""

    async def counted(self, sender: str, outcome: str) -> float:
        return await self.stack.metric("sidecar_usage_events_total", edge=sender, outcome=outcome)


def als_message(token: str, *, input: int = 11, output: int = 7) -> bytes:  # noqa: A002  A kind.
    message = als.StreamAccessLogsMessage()
    entry = message.http_logs.log_entry.add()
    common = entry.common_properties
    common.access_log_type = als.DownstreamEnd
    row = common.metadata.filter_metadata.add(key=b"envoy.filters.http.ext_authz")
    row.value.fields.add(key=b"sidecar_token").value.string_value = token.encode()
    usage = token_usage.TokenUsage(extraction_status=1)
    usage.input_tokens.value, usage.output_tokens.value = input, output
    typed = common.metadata.typed_filter_metadata.add(key=b"envoy.ai.token_usage")
    typed.value.type_url = b"type.googleapis.com/envoy.data.ai.v3.TokenUsage"
    typed.value.value = usage.SerializeToString()
    entry.response.response_code.value = 200
    entry.response.response_code_details = b"via_upstream"
    return message.SerializeToString()


def ingest_message(token: str, **counts: int) -> bytes:
    message = ingest.IngestRequest()
    event = message.events.add(hold_token=token.encode(), status=200)
    for kind, count in counts.items():
        setattr(event.usage, kind, count)
    return message.SerializeToString()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def direct(stack: Stack) -> AsyncIterator[Direct]:
    assert stack.sidecar is not None
    pid = stack.sidecar.pid
    failures = await stack.metric("sidecar_worker_failures_total")
    async with grpc.aio.insecure_channel(stack.grpc) as channel:
        yield Direct(stack, channel)
    assert stack.sidecar.alive
    assert stack.sidecar.pid == pid
    assert await stack.metric("sidecar_worker_failures_total") == failures


async def code_of(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code()


async def assert_untouched(direct: Direct, customer: str) -> None:
    """The hold is open, and nothing else is known of the customer."""
    balance = await direct.stack.balance(customer)
    assert (balance["used_nano"], balance["held_nano"]) == (0, HELD_NANO)
    assert balance["available_nano"] == 10**9 - HELD_NANO


@pytest.mark.parametrize("sender", SENDERS)
async def test_nobody_unknown_reports_usage(direct: Direct, sender: str):
    customer = f"cus_stranger_{sender}"
    key = await direct.stack.customer(customer, "prepaid", grant="1")
    token = (await direct.hold(key))["hold_token"]
    before = await direct.counted(sender, "unauthenticated")
    wrong = [(), (("x-sidecar-token", "guess"),), (("authorization", f"Bearer {key}"),)]
    wrong += [(("x-sidecar-gateway", direct.stack.gateway_token),)]
    for proof in wrong:
        if sender == "http":
            guess = dict(proof).get("x-sidecar-token", "")
            status, body = await direct.post([{"hold_token": token}], token=guess)
            assert (status, body["status"]) == (401, 401)
        else:
            refused = await code_of(direct.send(sender, token, proof=proof))
            assert refused is grpc.StatusCode.UNAUTHENTICATED
    await assert_untouched(direct, customer)
    if sender != "http":
        assert await direct.counted(sender, "unauthenticated") == before + len(wrong)
    # The same report from the gateway is taken: nothing of it was spent on the refusals.
    await direct.send(sender, token)
    assert (await direct.stack.until_captured(customer))["used_nano"] == USED_NANO


def forgeries(token: str) -> list[str]:
    middle = len(token) // 2
    flipped = [
        token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
        for at in (4, middle, len(token) - 3)
    ]
    cut = [token[:-8], token[middle:], token + "AAAA", "x", "A" * 5_000, "=" * 40]
    return [*flipped, *cut, *resigned(token)]


def resigned(token: str) -> list[str]:
    """Well-formed tokens of somebody who knows all but the key."""
    signed = SignedHoldToken.FromString(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    terms = HoldToken.FromString(signed.payload)
    terms.amount_nano, terms.customer_id = 1, "cus_owner"
    altered = SignedHoldToken()
    altered.CopyFrom(signed)
    altered.payload = terms.SerializeToString()
    guessed = SignedHoldToken()
    guessed.CopyFrom(altered)
    guessed.signature = hmac.digest(b"guess", guessed.payload, "sha256")
    unsigned = SignedHoldToken(payload=signed.payload, key_id=signed.key_id)
    other = SignedHoldToken(
        payload=signed.payload, key_id=signed.key_id + "0", signature=signed.signature
    )
    return [
        base64.urlsafe_b64encode(forged.SerializeToString()).rstrip(b"=").decode()
        for forged in (altered, guessed, unsigned, other)
    ]


@pytest.mark.parametrize("sender", SENDERS)
async def test_an_altered_hold_token_moves_nothing(direct: Direct, sender: str):
    customer = f"cus_forged_{sender}"
    key = await direct.stack.customer(customer, "prepaid", grant="1")
    token = (await direct.hold(key))["hold_token"]
    before = await direct.counted(sender, "rejected")
    for forged in forgeries(token):
        assert await direct.send(sender, forged) in ("", "rejected")
    assert await direct.counted(sender, "rejected") == before + len(forgeries(token))
    await assert_untouched(direct, customer)
    await direct.send(sender, token)
    assert (await direct.stack.until_captured(customer))["used_nano"] == USED_NANO


@pytest.mark.parametrize("sender", SENDERS)
async def test_a_token_sent_again_and_again_counts_once(direct: Direct, sender: str):
    customer = f"cus_replay_{sender}"
    key = await direct.stack.customer(customer, "prepaid", grant="1")
    token = (await direct.hold(key))["hold_token"]
    for again in SENDERS:
        for _ in range(3):
            await direct.send(again, token)
    await direct.send(sender, token, input=12)  # Another measurement is for people to judge.
    assert (await direct.stack.until_captured(customer))["used_nano"] == USED_NANO


async def test_a_token_is_of_no_use_for_another_customer(direct: Direct):
    key = await direct.stack.customer("cus_owner", "prepaid", grant="1")
    await direct.stack.customer("cus_victim", "prepaid", grant="1")
    held = await direct.hold(key)
    usage = {"input": 11, "output": 7}
    victim = {"customer_id": "cus_victim", "usage": usage}
    status, body = await direct.post(
        [
            victim | {"hold_token": held["hold_token"]},
            victim | {"hold_token": held["hold_token"], "hold_id": "0" * 40},
            victim | {"hold_id": held["hold_id"]},
            victim | {"id": "mine", "occurred_at": "2026-11-20T00:00:00Z"},
        ]
    )
    assert status == 202
    outcomes = [result["outcome"] for result in body["results"]]
    assert outcomes == ["rejected", "rejected", "quarantined", "rejected"]
    await assert_untouched(direct, "cus_owner")
    balance = await direct.stack.balance("cus_victim")
    assert (balance["used_nano"], balance["held_nano"]) == (0, 0)


ODD_COUNTS: dict[str, list[Any]] = {
    "http": [-1, 1.5, 2**63, QUANTITY_MAX + 1, "11", "", [], {}, True],
    "ingest": [-1, -(2**63), 2**63 - 1, QUANTITY_MAX + 1],
    "otlp": [-1, 1.5, 2**63, QUANTITY_MAX + 1, "x", "\u0661", "1e3", "0x1", " 1", "1" * 17_000],
    "als": [QUANTITY_MAX + 1, 2**63, 2**64 - 1],
}


@pytest.mark.parametrize("sender", SENDERS)
async def test_counts_that_are_none_move_nothing(direct: Direct, sender: str):
    customer = f"cus_counts_{sender}"
    key = await direct.stack.customer(customer, "prepaid", grant="1")
    token = (await direct.hold(key))["hold_token"]
    # A gateway's entry is usage that somebody owes: set aside. A caller of ours gets its answer.
    outcome = "rejected" if sender in ("http", "ingest") else "quarantined"
    before = await direct.counted(sender, outcome)
    for count in ODD_COUNTS[sender]:
        assert await direct.send(sender, token, input=count) in ("", "rejected")
    assert await direct.counted(sender, outcome) == before + len(ODD_COUNTS[sender])
    await assert_untouched(direct, customer)


GARBAGE = [b"\xff" * 40, b"\x0a\xff\xff\xff\xff\x0f", b"not protobuf", b"\x08"]


@pytest.mark.parametrize("path", [CHECK, EXPORT, INGEST, HEALTH])
async def test_a_malformed_message_is_refused_and_the_next_is_served(direct: Direct, path: str):
    for data in GARBAGE:
        assert await code_of(direct.call(path, data)) is grpc.StatusCode.INVALID_ARGUMENT
    assert await code_of(direct.call("/no.Such/Method", b"")) is grpc.StatusCode.UNIMPLEMENTED
    assert await direct.call(HEALTH, b"")


async def test_a_malformed_log_message_costs_the_stream_nothing_else(direct: Direct):
    key = await direct.stack.customer("cus_stream", "prepaid", grant="1")
    token = (await direct.hold(key))["hold_token"]
    before = await direct.counted("als", "malformed")
    await direct.stream(*GARBAGE, als_message(token), *GARBAGE)
    assert (await direct.stack.until_captured("cus_stream"))["used_nano"] == USED_NANO
    assert await direct.counted("als", "malformed") == before + 2 * len(GARBAGE)


@pytest.mark.parametrize("path", [CHECK, EXPORT, INGEST, STREAM])
async def test_a_message_above_the_limit_is_refused(direct: Direct, path: str):
    data = b"\x0a\x84\x80\x80\x02" + b"\x00" * (4 * 2**20 + 4)
    call = direct.stream(data) if path == STREAM else direct.call(path, data)
    assert await code_of(call) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await direct.call(HEALTH, b"")


async def test_a_batch_above_the_limit_moves_nothing(direct: Direct):
    key = await direct.stack.customer("cus_batch", "prepaid", grant="1")
    token = (await direct.hold(key))["hold_token"]
    records = export(ended(token), *([{"log_type": "DownstreamEnd"}] * 10_000))
    assert await code_of(direct.call(EXPORT, records)) is grpc.StatusCode.INVALID_ARGUMENT
    events = ingest_message(token) * 1_001
    assert await code_of(direct.call(INGEST, events)) is grpc.StatusCode.INVALID_ARGUMENT
    status, _ = await direct.post([{"hold_token": token}] * 1_001)
    assert status == 400
    await assert_untouched(direct, "cus_batch")


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"data": b"\xff{", "type": "application/json"}, 400),
        ({"data": b'{"events":' + b"[" * 20_000, "type": "application/json"}, 400),
        ({"data": b'{"events":[],"events":[{}]}', "type": "application/json"}, 400),
        ({"data": b"[]", "type": "application/json"}, 400),
        ({"data": b"{}", "type": "text/plain"}, 415),
        ({"data": b" " * 3_000_000, "type": "application/json"}, 413),
    ],
)
async def test_a_post_that_is_none_gets_its_word(direct: Direct, options: Any, status: int):
    headers = {"content-type": options["type"]}
    headers["authorization"] = f"Bearer {direct.stack.gateway_token}"
    url = f"http://{direct.stack.http}/v1/usage"
    async with direct.stack.session.post(
        url, data=io.BytesIO(options["data"]), headers=headers
    ) as response:
        assert response.status == status
        assert (await response.json(content_type=None))["status"] == status
