"""A log record is read in one pass, and says what it says when each name is looked up by itself."""

from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain.errors import InvalidInput
from sidecar.domain.periods import from_epoch_ms
from sidecar.domain.usage import QUANTITY_MAX, TokenUsage
from sidecar.inbound.envoy.attributes import LogAttribute
from sidecar.inbound.envoy.log_entries import LOG_TYPES, LogEntry
from sidecar.inbound.envoy.otlp_logs import read_record
from sidecar.inbound.extraction.facts import make_facts
from sidecar.inbound.extraction.text import TEXT_BYTES_MAX, printable
from sidecar.inbound.extraction.token_usage import AiUsage, HeaderUsage, UsageSources
from sidecar.wire import otlp_logs_pb2 as wire

digits = st.integers(-5, 10**20).map(lambda n: str(n).encode())
texts = st.one_of(
    digits,
    st.sampled_from([b"", b"-", b"200", b"DownstreamEnd", b"1795180797.5", b"x" * 20_000]),
    st.binary(max_size=6),
    st.text(max_size=4).map(str.encode),
)
values = st.one_of(
    st.builds(wire.AnyValue, string_value=texts),
    st.builds(wire.AnyValue, int_value=st.integers(-(2**63), 2**63 - 1)),
    st.just(wire.AnyValue(double_value=1.5)),
    st.just(wire.AnyValue()),
)
keys = st.sampled_from(
    [
        *(name.encode() for name in LogAttribute),
        *(b"resp.x-Tier", b"resp.x-tier", b"meta.a.b", b"meta.a", b"resp.", b"other"),
    ]
)
records = st.builds(
    wire.LogRecord,
    attributes=st.lists(st.builds(wire.KeyValue, key=keys, value=values), max_size=24),
)


def first_text(record: wire.LogRecord, name: LogAttribute) -> str | None:
    """The first value of a name that says anything and can be read."""
    for row in record.attributes:
        text = text_of(row)
        if row.key == name.encode() and text not in (None, "", "-"):
            return text
    return None


def text_of(row: wire.KeyValue) -> str | None:
    """None for what is no text."""
    match row.value.WhichOneof("value"):
        case None:
            return ""
        case "string_value" if len(row.value.string_value) <= 16_384:
            return row.value.string_value.decode("utf-8", "replace")
        case "int_value":
            return str(row.value.int_value)
    return None


def is_problem(record: wire.LogRecord) -> bool:
    """Whether a name of ours, before any good value of it, has one that is no text."""
    good: set[bytes] = set()
    for row in record.attributes:
        if row.key.decode() in set(LogAttribute) and row.key not in good:
            text = text_of(row)
            if text is None:
                return True
            if text not in ("", "-"):
                good.add(row.key)
    return False


def whole(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and int(text) <= QUANTITY_MAX):
        raise InvalidInput("no number")
    return int(text)


def told(record: wire.LogRecord):
    found: dict[str, dict[str, str]] = {"resp": {}, "meta": {}}
    for row in record.attributes:
        prefix, _, name = row.key.decode().partition(".")
        text = row.value.string_value[:256].decode("utf-8", "replace")
        if prefix in found and row.key != b"other" and text not in ("", "-"):
            found[prefix][name] = text
    return make_facts(found["resp"], found["meta"])


def plainly(record: wire.LogRecord) -> LogEntry:
    """Name by name; a part that cannot be read is `problem` "some"."""
    get = {name: first_text(record, name) for name in LogAttribute}
    kind = get[LogAttribute.LOG_TYPE] or "NotSet"
    names = (LogAttribute.CONNECTION, LogAttribute.START, LogAttribute.STREAM)
    known = {
        "log_type": kind if kind in LOG_TYPES else "other",
        "details": (get[LogAttribute.DETAILS] or "")[:16_384],
        "hold_token": get[LogAttribute.HOLD_TOKEN] or "",
        "facts": tuple((get[name] or "").encode() for name in names),
    }
    try:
        second = whole((get[LogAttribute.START] or "").partition(".")[0] or None)
        status = whole(get[LogAttribute.CODE])
        numbers = {
            "duration_ms": whole(get[LogAttribute.DURATION_MS]),
            "request_bytes": whole(get[LogAttribute.BYTES_RECEIVED]),
            "response_bytes": whole(get[LogAttribute.BYTES_SENT]),
        }
    except InvalidInput:
        return LogEntry(**known, problem="some")
    if (status or 0) > 999 or (second or 0) > 2**32:
        return LogEntry(**known, problem="some")
    return LogEntry(
        **known,
        **numbers,
        sources=UsageSources(
            ai=AiUsage(
                input=get[LogAttribute.AI_INPUT],
                output=get[LogAttribute.AI_OUTPUT],
                cached=get[LogAttribute.AI_CACHED],
                cache_creation=get[LogAttribute.AI_CACHE_CREATION],
                reasoning=get[LogAttribute.AI_REASONING],
                status=get[LogAttribute.AI_STATUS],
            ),
            sse=get[LogAttribute.SSE_USAGE],
            headers=HeaderUsage(
                total=get[LogAttribute.TOKENS_USED],
                input=get[LogAttribute.TOKENS_INPUT],
                output=get[LogAttribute.TOKENS_OUTPUT],
            ),
            ai_model=get[LogAttribute.AI_MODEL],
            sse_model=get[LogAttribute.SSE_MODEL],
        ),
        status=status or None,
        started_at=None if second is None else from_epoch_ms(second * 1_000),
        route=printable(get[LogAttribute.ROUTE] or ""),
        request_id=(get[LogAttribute.REQUEST_ID] or "").encode()[:128],
        response=told(record),
        problem="some" if is_problem(record) else "",
    )


@given(records)
def test_a_record_says_what_its_attributes_say(record):
    entry = read_record(record)
    expected = plainly(record)
    assert bool(entry.problem) == bool(expected.problem)
    for name in LogEntry.__slots__:
        if name != "problem":
            assert getattr(entry, name) == getattr(expected, name), name


@given(st.text(max_size=200) | st.binary(max_size=600))
def test_text_is_made_printable_as_character_by_character(text):
    whole_text = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    clean = "".join(
        char if char.isprintable() and char != "\ufffd" else "?"
        for char in whole_text[:TEXT_BYTES_MAX]
    )
    assert printable(text) == clean.encode()[:TEXT_BYTES_MAX].decode("utf-8", "ignore")


counts = st.none() | st.integers(-1, QUANTITY_MAX + 1) | st.booleans()


@given(st.fixed_dictionaries(dict.fromkeys(TokenUsage.__slots__, counts)))
def test_counts_are_refused_where_any_is_none_or_parts_are_more_than_their_whole(counted):
    bad = any(
        n is not None and (type(n) is not int or not 0 <= n <= QUANTITY_MAX)
        for n in counted.values()
    )
    if not bad:
        n = counted
        whole_in, parts = n["input"], (n["cache_read"] or 0) + (n["cache_creation"] or 0)
        bad = whole_in is not None and parts > whole_in
        bad |= n["output"] is not None and (n["reasoning"] or 0) > n["output"]
    try:
        usage = TokenUsage(**counted)
    except InvalidInput:
        assert bad
    else:
        assert not bad
        assert usage.input == counted["input"]
