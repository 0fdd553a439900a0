"""Imported rules decide as the published algorithm does, for random rules and requests."""

from fixtures.moesif_reference import govern
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.inbound.denials import word_denial
from sidecar.outbound.moesif.conformance import run_cases

IDS = ("r1", "r2", "64ca685a833073c6b41b15f3", "No Credit!", "10", "9")
ENTITIES = ("e1", "e.2", "")
PATHS = (
    "request.route",
    "request.verb",
    "request.ip",
    "request.ip_address",
    "request.uri",
    "request.headers.X-Tier",
    "request.headers.x-missing",
    "request.body.model",
    "request.body.a.b",
    "request.body.n",
    "request.nosuch",
    "response.status",
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
)
VALUES = st.sampled_from(["v", "Pro plan", 7, 1.5, True, False, 0, None, "", ["a", 1], "{{0}}"])


@st.composite
def _conditions(draw):
    size = draw(st.sampled_from([0, 1, 1, 2, 3]))
    return [
        {"path": draw(st.sampled_from(PATHS)), "value": draw(st.sampled_from(PATTERNS))}
        for _ in range(size)
    ]


@st.composite
def _rule(draw, rule_id):
    rule = {"_id": rule_id, "name": f"rule {rule_id}"}
    rule["type"] = draw(st.sampled_from(["regex", "user", "company"]))
    rule["block"] = draw(st.booleans())
    rule["applied_to"] = draw(st.sampled_from(["matching", "matching", "not_matching"]))
    rule["applied_to_unidentified"] = draw(st.booleans())
    if draw(st.booleans()):
        groups = draw(st.lists(_conditions(), max_size=3))
        rule["regex_config"] = [{"conditions": group} for group in groups]
    if draw(st.booleans()):
        rule["variables"] = [{"name": name, "path": "x"} for name in ("0", "plan")]
    text = st.sampled_from(TEXTS)
    names = st.sampled_from(["X-A", "X-B"])
    body = st.one_of(
        text,
        st.none(),
        st.lists(text, max_size=2),
        st.fixed_dictionaries({"a": text, "n": st.sampled_from([3, 0.5, True, None])}),
    )
    rule["response"] = {
        "status": draw(st.sampled_from([402, 429, 203, 503])),
        "headers": draw(st.dictionaries(names, text, max_size=2)),
        "body": draw(body),
    }
    return rule


@st.composite
def cases(draw):
    ids = draw(st.lists(st.sampled_from(IDS), unique=True, max_size=5))
    # Whole numbers come first in a JavaScript object, which the reference does not do.
    ids = sorted(ids, key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0))
    rules = [draw(_rule(rule_id)) for rule_id in ids]
    entry = st.fixed_dictionaries(
        {"rules": st.sampled_from(IDS)},
        optional={"values": st.dictionaries(st.sampled_from(["0", "plan", "x"]), VALUES)},
    )
    lists = st.dictionaries(st.sampled_from(ENTITIES), st.lists(entry, max_size=4))
    config = {"user_rules": draw(lists), "company_rules": draw(lists)}
    entity = st.sampled_from([None, *ENTITIES, "other"])
    value = st.sampled_from(["gpt-4o", 4, 4.0, 0.1, True, None, ["x", None, 2], {"y": 1}])
    body = st.one_of(
        st.none(),
        st.just("text"),
        st.just('{"model": "gpt-4"}'),
        st.lists(value, max_size=2),
        st.dictionaries(st.sampled_from(["model", "a.b", "n"]), value),
    )
    event = {
        "verb": draw(st.sampled_from(["GET", "POST", "post"])),
        "uri": "http://api.example.com" + draw(st.sampled_from(["/ai/chat", "/img?x=1", ""])),
        "headers": draw(st.sampled_from([{}, {"X-Tier": "gold"}, {"x-tier": ""}])),
        "body": draw(body),
        "ip": draw(st.sampled_from(["10.0.0.9", None])),
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
