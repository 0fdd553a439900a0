"""Imported rules decide as the published algorithm does, for random rules and requests."""

from fixtures.moesif_reference import govern
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.inbound.denials import word_denial
from sidecar.outbound.moesif.conformance import run_cases


def _nested(depth):
    body = "{{0}}"
    for _ in range(depth):
        body = [body]
    return body


IDS = ("r1", "r2", "64ca685a833073c6b41b15f3", "No Credit!", "10", "9", 10, 7.5, "4294967295")
ENTITIES = ("e1", "e.2", "", "7", "true", "two\nlines", "e" * 300)
PATHS = (
    "request.route",
    "request.route",
    "request.verb",
    "request.ip",
    "request.ip_address",
    "request.uri",
    "request.headers.X-Tier",
    "request.headers.x-missing",
    "request.headers.my Header",
    "request.body.model",
    "request.body.a.b",
    "request.body.n",
    "request.body.0",
    "request.body.length",
    "request.nosuch",
    "response.status",
    None,
)
PATTERNS = (
    "/ai/chat",
    "^/ai",
    "chat$",
    ".*",
    "",
    "^$",
    "POST",
    "^GET$",
    "^(GET|POST)$",
    "GET|POST",
    "^GET|POST$",
    "gold",
    "gpt-4",
    "^4",
    "null",
    "true",
    r"10\.0\.",
    r"\d+",
    r"[\w.-]+",
    r"\/ai\/",
    "(?i)GOLD",
    "^(?!/ai)",
    "^/(?!ai|img).*",
    "^(?=.*chat)/ai",
    "(",
    "*x",
    "a{2",
    "x=1",
    "//",
    "%2[fF]",
    "é",
    "^HTTP://User:pw@",
    "#",
    5,
    7.0,
    None,
    True,
    ["gold", "x"],
    {},
)
URIS = (
    "http://api.example.com/ai/chat",
    "http://api.example.com/img?x=1",
    "http://api.example.com",
    "http://api.example.com?x=1",
    "HTTP://User:pw@API.Example.com:8080/ai//chat/../5#/chat",
    "https://[2001:db8::1]/%61i/é%2Fchat;v=4",
    "http://h/./ai\\chat%zz?/img",
    "/ai/chat",
)
TEXTS = (
    "plain",
    "{{0}}",
    "{{plan}} of {{0}}",
    "{{{0}}}",
    "{{0|none}}",
    "{{0| odd {}}",
    "{{ 0 }}",
    "{{undeclared|x}}",
    "{{}} {x} {{",
    'say "{{0}}"',
    "}}{{0}}{{",
    "{{0|two\nlines}}",
    "{{5}} or {{a.b}}",
)
VALUES = st.sampled_from(
    [
        "v",
        "Pro plan",
        "two\nlines",
        "v" * 1_500,
        7,
        1.5,
        True,
        False,
        0,
        None,
        "",
        ["a", 1],
        "{{0}}",
    ]
)
ODD = st.text("aZ0 -:{}\"'\\\n\t\x00\x7f\x85\xe9\u2028\ufeff\U0001f600#&*|>%@`", max_size=8)
TEXT = st.one_of(st.sampled_from(TEXTS), ODD)
NAMES = st.one_of(
    st.sampled_from(["X-A", "x-a", "X-B", "my header", "host", "Content-Length", "x-sidecar-a"]),
    ODD,
)
NUMBERS = st.one_of(
    st.integers(),
    st.sampled_from([10**16, 1e300, 1e-7, 0.1, -0.5, 2.0]),
    st.floats(width=16, allow_nan=False),
)
PLAIN = st.one_of(TEXT, NUMBERS, st.booleans(), st.none())
BODIES = st.one_of(
    st.recursive(
        PLAIN,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)
        ),
        max_leaves=6,
    ),
    st.integers(13, 40).map(_nested),
)
STATUSES = st.one_of(
    st.integers(100, 599),
    st.sampled_from([0, -1, 99, 600, 10**12, 429.0, 429.5, "429", "", "many", True, None, [1]]),
)


@st.composite
def _conditions(draw):
    size = draw(st.sampled_from([0, 1, 1, 2, 3]))
    found = [
        {"path": draw(st.sampled_from(PATHS)), "value": draw(st.sampled_from(PATTERNS))}
        for _ in range(size)
    ]
    for condition in found:
        if draw(st.integers(0, 30)) == 0:
            condition.pop(draw(st.sampled_from(["path", "value"])))
    return found


def _groups(draw):
    groups = draw(st.lists(_conditions(), max_size=3))
    found = [{"conditions": group} for group in groups]
    return draw(st.sampled_from([found, found, found, found, [*found, {}], None, "text"]))


@st.composite
def _rule(draw):
    rule = {"_id": draw(st.sampled_from(IDS)), "name": "a rule"}
    rule["type"] = draw(st.sampled_from(["regex", "user", "company", "user", "company", "other"]))
    rule["block"] = draw(st.sampled_from([True, True, False, None, "yes", [], 0]))
    rule["applied_to"] = draw(st.sampled_from(["matching", "matching", "not_matching", None, "x"]))
    rule["applied_to_unidentified"] = draw(st.booleans())
    if draw(st.booleans()):
        rule["regex_config"] = _groups(draw)
    if draw(st.booleans()):
        names = draw(st.sampled_from([("0", "plan"), (0, "plan", "a.b"), (None,), ()]))
        rule["variables"] = [{"name": name, "path": "x"} for name in names] or [{"path": "x"}]
    value = st.one_of(TEXT, PLAIN, st.lists(TEXT, max_size=2))
    rule["response"] = {
        "status": draw(STATUSES),
        "headers": draw(st.one_of(st.dictionaries(NAMES, value, max_size=3), st.none())),
        "body": draw(BODIES),
    }
    for key in draw(st.sets(st.sampled_from(["status", "headers", "body"]), max_size=1)):
        del rule["response"][key]
    return rule


@st.composite
def cases(draw):
    rules = draw(st.lists(_rule(), max_size=5))
    entry = st.fixed_dictionaries(
        {},
        optional={
            "rules": st.sampled_from([*IDS, "10", "7.5", None]),
            "values": st.dictionaries(st.sampled_from(["0", "plan", "a.b", "null", "x"]), VALUES),
        },
    )
    lists = st.dictionaries(st.sampled_from(ENTITIES), st.lists(entry, max_size=4))
    config = {"user_rules": draw(lists), "company_rules": draw(lists)}
    entity = st.sampled_from([None, *ENTITIES, "other", 7, 7.0, True])
    value = st.sampled_from(["gpt-4o", 4, 4.0, 0.1, True, None, ["x", None, 2], {"y": 1}])
    body = st.one_of(
        st.none(),
        st.sampled_from(["text", '{"model": "gpt-4"}', '["gpt-4"]', '"4"', 5, True]),
        st.lists(value, max_size=2),
        st.dictionaries(st.sampled_from(["model", "a.b", "n", "0", "length"]), value),
    )
    event = {
        "verb": draw(st.sampled_from(["GET", "POST", "post", None])),
        "uri": draw(st.sampled_from(URIS)),
        "headers": draw(
            st.sampled_from(
                [
                    {},
                    None,
                    {"X-Tier": "gold", "Content-Type": "text/plain"},
                    {"x-tier": "", "content-encoding": "gzip"},
                    {"X-Tier": 4, "MY header": True},
                    {"X-TIER": None},
                ]
            )
        ),
        "body": draw(body),
        "ip": draw(st.sampled_from(["10.0.0.9", "10.0.0.9:80", "::FFFF:10.0.0.1", None])),
        "user_id": draw(entity),
        "company_id": draw(entity),
    }
    return {"name": "random", "rules": rules, "config": config, "event": event}


@given(cases())
@settings(max_examples=300, deadline=None)
def test_an_import_decides_as_the_published_algorithm(case):
    # Look-ahead is Python's too; what our importer cannot say would fail here.
    expected = govern(case["rules"], case["config"], case["event"])
    (result,) = run_cases([{**case, "expected": expected}], word_denial)
    assert result.passed, result.differences
