"""
Decision records: what a check was decided from, compact, versioned and self-contained.

A record holds no body, no credential and no header that no rule reads. Its field names are
short on the wire because there is one record per request.
"""

import hashlib
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec

from sidecar.domain.counter_model import Slot
from sidecar.domain.counters import CounterKind
from sidecar.domain.customers import CustomerFacts
from sidecar.domain.errors import InvalidInput
from sidecar.domain.requests import RequestFacts, decision_id_for

RECORD_VERSION = 1
HARD, OVER = 1, 2
RECORD_BYTES_MAX = 16_384
"""Longer ones are not kept: their facts would cost more than they are worth."""

Plain = str | int | float | bool | None
"""A JSON value that is no list and no object; null is one that was looked for and absent."""


class Stage(StrEnum):
    """How far a check came; what was decided before the rules is not judged again."""

    RULES = "rules"
    PATH = "path"
    IDENTITY = "identity"
    BODY = "body"
    STORE = "store"
    """The store could not account for the request."""


class NumbersFrom(StrEnum):
    """Where the numbers that the rules judged came from."""

    STORE = "store"
    OLD = "old"
    """The store was away: numbers it said before."""
    AWAY = "away"
    """The store was away and there were no numbers."""
    NOT_ASKED = ""


class RecordedRequest(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    rename={
        "method": "m",
        "path": "p",
        "path_cut": "pc",
        "scheme": "sc",
        "host": "h",
        "source": "ip",
        "headers": "hd",
        "query": "q",
        "context": "cx",
        "body": "b",
        "unreadable": "bu",
        "withheld": "w",
        "body_bytes": "bb",
        "planned_us": "pu",
    },
):
    """
    The facts that rules may read.

    `headers`, `query`, `context` and `body` have each name that the policy reads, with null
    where the request had none; `withheld` names those that were there and are not kept, as
    "headers.cookie". `planned_us` is the instant of conditions, in microseconds since 1970,
    where a rule had one.
    """

    method: str
    path: str = ""
    path_cut: bool = False
    scheme: str = "https"
    host: str = ""
    source: str = ""
    headers: dict[str, list[str] | None] = {}
    query: dict[str, list[str] | None] = {}
    context: dict[str, str | None] = {}
    body: dict[str, Plain] = {}
    unreadable: bool = False
    withheld: tuple[str, ...] = ()
    body_bytes: int = 0
    planned_us: int = 0


class BodyFacts(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    rename={
        "model": "m",
        "input_bound": "i",
        "output_bound": "o",
        "choices": "n",
        "unread": "u",
    },
):
    """What the body promised of its usage."""

    model: str = ""
    input_bound: int | None = None
    output_bound: int | None = None
    choices: int = 1
    unread: bool = False

    @property
    def facts(self) -> RequestFacts:
        """As a plan takes them."""
        return RequestFacts(
            model=self.model,
            input_bound=self.input_bound,
            output_bound=self.output_bound,
            choices=self.choices,
            unread=self.unread,
        )


class RecordedTake(msgspec.Struct, frozen=True, array_like=True):
    """
    One counter of a check: what it took and what the store said of it.

    `kept_ms` is how long after its start the window or slice counts; `flags` are 1 for a hard
    take and 2 for one that does not fit.
    """

    field: str
    measure: str
    quantity: int
    limit: int
    used: int
    flags: int = 0
    retry_at_ms: int = 0
    kept_ms: int = 0
    per_ms: int = 0
    burst: int = 0

    @property
    def hard(self) -> bool:
        """Whether the store was to refuse beyond the limit."""
        return bool(self.flags & HARD)

    @property
    def over(self) -> bool:
        """Whether the take did not fit."""
        return bool(self.flags & OVER)

    @property
    def slot(self) -> Slot:
        """The take as a counter's model has it."""
        return Slot.of_field(
            self.field,
            measure=self.measure,
            quantity=self.quantity,
            limit=self.limit,
            hard=self.hard,
            kept_ms=self.kept_ms,
            per_ms=self.per_ms,
            burst=self.burst,
        )

    @property
    def counted(self) -> bool:
        """Whether a placed hold took it: a soft rate that is exceeded takes nothing."""
        return not (self.over and self.field.startswith(f"{CounterKind.RATE}:"))


class DecisionRecord(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    rename={
        "version": "v",
        "hold_id": "h",
        "instant_ms": "t",
        "epoch": "ep",
        "seq": "sq",
        "edge": "ed",
        "gateway_id": "gw",
        "policy_version": "pv",
        "price_version": "cv",
        "customer_id": "c",
        "plan": "pl",
        "currency": "cu",
        "labels": "lb",
        "team_id": "tm",
        "user_id": "us",
        "credential_id": "ky",
        "revision": "rv",
        "request": "r",
        "facts": "f",
        "ask": "a",
        "amount_nano": "am",
        "quantities": "qt",
        "bound": "bd",
        "credit_required": "cr",
        "takes": "tk",
        "numbers_from": "nf",
        "available_nano": "av",
        "standing": "st",
        "due_since_ms": "ds",
        "due_nano": "du",
        "disputed": "di",
        "failed_credit": "fc",
        "denied": "dn",
        "stage": "sg",
        "placed": "pd",
        "allow": "ok",
        "code": "co",
        "rule": "ru",
        "status": "hs",
        "retry_after_seconds": "ra",
        "shadow": "sh",
        "over": "ov",
        "headers": "dh",
        "hold_ttl_ms": "tt",
        "trace": "tr",
    },
):
    """
    One decision. Amounts in nano, instants in epoch milliseconds.

    (`epoch`, `seq`) order a shard's decisions; a denial has the seq of the placed hold before
    it. `placed` says that the hold was placed, so that the numbers are those after it; with
    `allow` false it was given back at once. `headers` is a digest of the answer's own headers.
    `trace` is detail for people and may be absent.
    """

    version: int = 1
    hold_id: str
    instant_ms: int
    epoch: int = 0
    seq: int = 0
    edge: str = ""
    gateway_id: str = ""
    policy_version: str = ""
    price_version: str = ""
    customer_id: str = ""
    plan: str = ""
    currency: str = ""
    labels: dict[str, str] = {}
    team_id: str = ""
    user_id: str = ""
    credential_id: str = ""
    revision: int = 0
    request: RecordedRequest
    facts: BodyFacts | None = None
    ask: str = ""
    amount_nano: int = 0
    quantities: dict[str, int] = {}
    bound: str = "proven"
    credit_required: bool = False
    takes: tuple[RecordedTake, ...] = ()
    numbers_from: NumbersFrom = NumbersFrom.NOT_ASKED
    available_nano: int = 0
    standing: str = "good"
    due_since_ms: int | None = None
    due_nano: int | None = None
    disputed: bool = False
    failed_credit: bool = False
    denied: bool = False
    stage: Stage = Stage.RULES
    placed: bool = False
    allow: bool = False
    code: str = ""
    rule: str = ""
    status: int = 0
    retry_after_seconds: int = 0
    shadow: tuple[str, ...] = ()
    over: tuple[str, ...] = ()
    headers: str = ""
    hold_ttl_ms: int = 0
    trace: tuple[str, ...] = ()

    @property
    def decision_id(self) -> str:
        """The decision's public reference."""
        return decision_id_for(self.hold_id)

    @property
    def customer(self) -> CustomerFacts:
        """Whose request it was, as the check knew them."""
        return CustomerFacts(
            customer_id=self.customer_id,
            plan=self.plan,
            currency=self.currency,
            revision=self.revision,
            labels=self.labels,
            team_id=self.team_id,
            user_id=self.user_id,
            credential_id=self.credential_id,
        )

    @property
    def order(self) -> tuple[int, int, int, bool]:
        """Where it stands among the decisions of its customer."""
        return (self.instant_ms, self.epoch, self.seq, not self.placed)


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(DecisionRecord)
_SURROGATES = re.compile("[\ud800-\udfff]")


def encode_record(record: DecisionRecord) -> bytes:
    """
    The record as JSON.

    Raises:
        InvalidInput: A text of it is not UTF-8, or it is longer than RECORD_BYTES_MAX.
    """
    try:
        encoded = _ENCODER.encode(record)
    except (UnicodeError, OverflowError) as error:
        raise InvalidInput("a decision's record cannot be encoded") from error
    if len(encoded) > RECORD_BYTES_MAX:
        raise InvalidInput(f"a decision's record has {len(encoded)} bytes")
    return encoded


def decode_record(encoded: bytes | str) -> DecisionRecord:
    """
    Read what `encode_record` wrote.

    Raises:
        InvalidInput: It is malformed, or of a version that this program does not know.
    """
    try:
        record = _DECODER.decode(encoded)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise InvalidInput("a decision's record is malformed") from error
    if record.version != RECORD_VERSION:
        raise InvalidInput(f"a decision's record has version {record.version}")
    return record


def readable(record: DecisionRecord) -> dict[str, Any]:
    """The record with its long names, for people; without the hold's id, which stays inside."""
    content = _named(record)
    del content["hold_id"]
    return {"decision_id": record.decision_id, **content}


def headers_digest(headers: Mapping[str, str]) -> str:
    """Tells whether two answers have the same headers; empty for none."""
    if not headers:
        return ""
    text = "\n".join(f"{name}:{value}" for name, value in sorted(headers.items()))
    return hashlib.blake2b(text.encode(errors="replace"), digest_size=6).hexdigest()


def plain_text(text: str, chars_max: int) -> str:
    """A text that can be stored anywhere: bounded, no NUL, no lone surrogates."""
    text = text[:chars_max]
    if text.isascii() and "\0" not in text:
        return text
    return _SURROGATES.sub("?", text.replace("\0", ""))


def _named(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return {name: _named(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, tuple | list):
        return [_named(item) for item in value]
    return value
