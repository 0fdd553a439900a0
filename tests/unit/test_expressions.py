"""Expressions: what is accepted, what is refused with which words, and what they answer."""

import pickle
from datetime import UTC, datetime

import pytest

from sidecar.domain.errors import InvalidInput
from sidecar.domain.expressions import (
    METER_VARIABLES,
    RULE_VARIABLES,
    ExpressionFailed,
    ResultKind,
    compile_expression,
)

REQUEST = {
    "method": "POST",
    "path": "/v1/chat",
    "headers": {"x-tier": "gold", "x-n": "12"},
    "query": {"page": "2"},
    "context": {},
    "body": {
        "model": "small",
        "stream": True,
        "messages": [{"role": "user", "content": "hi"}, {"role": "system", "content": "be"}],
        "nothing": None,
    },
    "time": datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC),
    "bytes": 500,
}
VARIABLES = {
    "request": REQUEST,
    "customer": {"id": "acme", "plan": "pro", "labels": {"eu": "yes"}},
    "credits": {"available_nano": 4_000_000_000},
    "quotas": {"tokens": {"used": 90, "limit": 100, "remaining": 10, "used_percent": 90}},
    "invoices": {"disputed": False},
}
USAGE = {
    "usage": {"input": 10, "output": 5, "cache_read": 30, "raw": {"half": 2.5, "big": 2.0**60}},
    "response": {"body": {"items": [{"n": 2}, {"n": 3}]}},
    "metadata": {"units": 3, "flag": True, "huge": 2**63},
}


def rule(text: str):
    return compile_expression(text, variables=RULE_VARIABLES, result=ResultKind.BOOLEAN)


def meter(text: str):
    return compile_expression(text, variables=METER_VARIABLES, result=ResultKind.NUMBER)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('request.method == "POST"', True),
        ('request["method"] == "POST"', True),
        ('request.headers["x-tier"] == "gold"', True),
        ('request.headers[request.query["h"]] == "" || true', True),
        ("int(request.headers['x-n']) > 5", True),
        ('request.path.startsWith("/v1/") && !request.path.endsWith("/")', True),
        ('request.path.matches(r"^/v\\d+/")', True),
        ('request.path.matches("chat$") && request.method.matches("^P")', True),
        ('request.method.lowerAscii() == "post"', True),
        ("request.body.stream", True),
        ('request.body.messages[1].role == "system"', True),
        ('request.body["messages"][1]["role"] == "system"', True),
        ('request.body.messages.exists(m, m.role == "system")', True),
        ("request.body.messages.filter(m, has(m.role)).all(m, m.content.size() > 1)", True),
        ("request.body.nothing == null", True),
        ("request.body.model[0] == 's' || true", True),
        ("has(request.body.model)", True),
        ("has(request.body.user.name)", False),
        ("has(request.body.user) && request.body.user.age > 5", False),
        ("request.body.user.age > 5 || request.bytes == 500", True),
        ("request.time.getHours() < 8", True),
        ('request.time + duration("1h") < timestamp("2024-01-03T00:00:00Z")', True),
        ('credits.available_nano < money("5.00")', True),
        ('credits.available_nano > -money("5.00") && money("-1") < 0', True),
        ('quotas["tokens"].used_percent >= 90', True),
        ("min(request.bytes, 5, 7) == 5 && max([1, 2]) == 2", True),
        ("request.method in ['GET', 'POST',]", True),
        ("'x' + 'y' == 'xy' // request.nothing", True),
        ("{'a': 1}.a == 1 ? true : false", True),
        ("1 == 1.0 && 5u > 4u", True),
    ],
)
def test_an_expression_answers(text, answer):
    assert rule(text).evaluate(VARIABLES) is answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("usage.input + usage.output * 3", 25),
        ("max(usage.input - usage.cache_read, 0)", 0),
        ("usage.input - usage.cache_read", -20),
        ("int(double(usage.input) * 1.25)", 12),
        ("double(usage.input) * 1.5", 15),
        ("sum(response.body.items.map(i, i.n))", 5),
        ("metadata.units * 2", 6),
        ("usage.input > 5 ? 1 : 2", 1),
    ],
)
def test_a_meters_value_is_a_whole_number(text, answer):
    found = meter(text).evaluate(USAGE)
    assert (found, type(found)) == (answer, int)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("metadata.flag", "it answered bool, not a number"),
        ("usage.raw.half", "it answered a double that is no exact whole number"),
        ("usage.raw.big", "it answered a double that is no exact whole number"),
        ("metadata.huge", "it answered a number beyond 64 bits"),
        ("metadata.missing", "metadata.missing is not there"),
        ("usage.input / metadata.zero", "metadata.zero is not there"),
        ("usage.input / (usage.output - 5)", "division by zero"),
        ("usage.input * 9223372036854775807", "a number is too large"),
        ("usage.raw.half + usage.input", "an operator does not take what it is given"),
        ("response.body.items.map(i, i.m).size()", "a key is not there"),
        ("response.body.items.map(i, i.n)[usage.input]", "an index is beyond the end of its list"),
    ],
)
def test_an_evaluation_without_a_whole_number_fails(text, reason):
    with pytest.raises(ExpressionFailed) as failed:
        meter(text).evaluate(USAGE)
    assert str(failed.value) == f"the expression {text!r} failed: {reason}"


def test_a_rule_answers_a_boolean_or_fails():
    with pytest.raises(ExpressionFailed, match="it answered str, not a boolean"):
        rule("request.body.model").evaluate(VARIABLES)


def test_a_failure_tells_no_value_of_the_request_and_drags_none_along():
    secret = "hunter2"
    request = {"headers": {"n": secret}, "body": {"k": secret, "bad": "\ud800" + secret}}
    for text in (
        "int(request.headers.n) > 1",
        'timestamp(request.headers.n) > timestamp("2024-01-02T00:00:00Z")',
        'request.headers[request.body.k] == ""',
        "request.body.k + 1 == 2",
        "request.body.k",
        "request.body.bad == 'a'",
        "[1, 2].exists(x, {'a': x}[request.headers.n] > 0)",
    ):
        with pytest.raises(ExpressionFailed) as failed:
            rule(text).evaluate({"request": request})
        assert secret not in str(failed.value)
        assert failed.value.__context__ is None
        assert failed.value.__cause__ is None


RULE_NAMES = (
    "request.body, request.bytes, request.context, request.fields, request.headers, request.host, "
    "request.input_tokens, request.method, request.model, request.output_tokens, request.path, "
    "request.query, request.source_ip, request.time, request.url"
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the expression is empty"),
        (" // a comment", "the expression is empty"),
        ('request.path == "' + "x" * 1_010 + '"', "the expression has 1028 bytes, at most 1024"),
        ("(" * 33 + "1" + ")" * 33, "the expression nests deeper than 32 brackets"),
        ("(1", "the expression has a '(' that is not closed"),
        ("1]", "the expression has a ']' that closes nothing"),
        ('"abc', "the expression has a string at character 1 that is not closed"),
        ("a = 1", "the expression has '=' at character 3, which begins no word"),
        (
            "true &&",
            "the expression cannot be read: line 1, character 8: mismatched input '<EOF>'",
        ),
        (
            'request.pth == "a"',
            "unknown variable 'request.pth'; did you mean 'request.path'? allowed: " + RULE_NAMES,
        ),
        ("request == 1", "request is a group, not a value; name one of: " + RULE_NAMES),
        ("request.path.x == 1", "request.path is a string and has no member 'x'"),
        ("request.path[request.bytes] == ''", "request.path cannot be indexed"),
        ("customer.labels.a.b == ''", "customer.labels.a is a string and has no member 'b'"),
        ("customer.labels[0] == ''", "customer.labels has text keys; found the number 0"),
        (
            'request.headers["X-Tier"] == ""',
            "names in request.headers are lower case; found 'X-Tier', write 'x-tier'",
        ),
        (
            '"X-Tier" in request.headers',
            "names in request.headers are lower case; found 'X-Tier', write 'x-tier'",
        ),
        (
            "quotas.tokens > 1",
            (
                'quotas.tokens needs a field, written out, such as quotas["name"].used; '
                "fields: limit, remaining, used, used_percent"
            ),
        ),
        (
            "quotas.all(q, true)",
            (
                'quotas needs an entry and a field, written out, such as quotas["name"].used; '
                "fields: limit, remaining, used, used_percent"
            ),
        ),
        (
            "quotas.tokens.use > 1",
            (
                "unknown field of quotas 'use'; did you mean 'used'? "
                "allowed: limit, remaining, used, used_percent"
            ),
        ),
        ("contains(request.path, 'a')", "contains is called as x.contains()"),
        ("request.path.startsWith()", "startsWith takes 1 arguments, found 0"),
        (
            "request.body.a.exists(m, m.b.exists(p, p == 1))",
            "exists() stands inside exists(); macros do not nest, chain them instead",
        ),
        (
            "request.body.a.exists(m, request.body.b == m)",
            (
                "request.body.b cannot be read inside exists(), where it would be read once per "
                "element; only 'm' and values of bounded size can"
            ),
        ),
        (
            "request.body.a.exists(request, true)",
            (
                "exists() cannot bind 'request'; choose a name that begins with a letter "
                "and is no variable's"
            ),
        ),
        (
            "request.body.a.map(x, x + x + x + x) == []",
            "the expression has 3 times '+' inside macros, at most 2",
        ),
        (
            "request.body.a.map(x, [x, x, x, x]) == []",
            "the expression has 4 times a name inside map(), at most 3",
        ),
        (
            "request.body.a.map(x, x).map(x, x).filter(x, x) == []",
            "the expression has 3 times map() or filter(), at most 2",
        ),
        ("1" + "+1" * 17 + " == 2", "the expression has 17 times '+', at most 16"),
        (
            'request.path.matches("(")',
            "matches() cannot use the pattern '(': missing ): (",
        ),
        (
            "request.path.matches(request.host)",
            "matches() takes a pattern that is written out as one string",
        ),
        (
            "request.bytes > money(request.path)",
            'money() takes an amount that is written out, such as money("5.00")',
        ),
        (
            'request.bytes > money("5,00")',
            (
                "amount '5,00' is not an amount; write a decimal string such as \"12.50\" with at "
                "most 10 digits before and 9 after the point"
            ),
        ),
        ('request.time < timestamp("soon")', 'timestamp("soon") cannot be converted'),
        ("has(request.path)", "has(request.path) is always true; leave it out"),
        (
            "has(request.body.f().x)",
            "has() takes a path that is written out, such as request.body.user",
        ),
        (".request.path == ''", "a name cannot begin with a dot; found '.request'"),
        (
            "request.path{} == 1",
            "request.path{...} would build a message; only maps can be written",
        ),
        ("request.bytes", "'request.bytes' is an integer; expected a boolean"),
        ("true || 1", "'1' is an integer; expected a boolean"),
        ("true ? true : (false || 'a')", "\"'a'\" is a string; expected a boolean"),
        (
            "true || request.path + 1 == 'a'",
            (
                "\"request.path + 1 == 'a'\" cannot work: string + int; "
                "convert one side, e.g. with int(x)"
            ),
        ),
        (
            "true || request.path < 1",
            "'request.path < 1' cannot work: an operator does not take what it is given",
        ),
        (
            "string(true) == ''",
            "\"string(true) == ''\" cannot work: string() does not take what it is given",
        ),
        (
            "request.bytes.matches('a')",
            # A function of ours answers null for what it does not take.
            "'request.bytes.matches(...)' is null; expected a boolean",
        ),
        (
            'request.bytes == "5"',
            (
                "'request.bytes == \"5\"' compares an integer with a string, which == never "
                "finds equal"
            ),
        ),
        ("[1][5] == 1", "'[1][5] == 1' fails, whatever is requested"),
    ],
)
def test_what_cannot_be_used_is_refused_with_what_was_found(text, message):
    with pytest.raises(InvalidInput) as refused:
        rule(text)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    "text", ["usage.input > 1", "true", "'a'", "usage.input > 1 && true", "true ? 1 : 'a'"]
)
def test_a_meters_value_that_is_no_number_is_refused(text):
    with pytest.raises(InvalidInput, match="expected a number"):
        meter(text)


def test_an_unknown_function_is_refused_with_the_nearest():
    with pytest.raises(InvalidInput, match=r"^unknown function 'lowercase'; did you mean 'lowerA"):
        rule("request.path.lowercase() == ''")
    with pytest.raises(InvalidInput, match=r"^unknown (function 'of'|variable)"):
        rule("optional.of(1).hasValue()")


def test_tables_are_apart():
    with pytest.raises(InvalidInput, match=r"unknown variable 'usage\.input'"):
        rule("usage.input > 1")
    with pytest.raises(InvalidInput, match=r"unknown variable 'credits\.available_nano'"):
        meter("credits.available_nano")


def test_a_written_out_key_that_is_absent_reads_as_empty_and_is_still_absent():
    empty = {"customer": {"labels": {}}}
    assert rule('customer.labels.trial != "yes"').evaluate(empty) is True
    assert rule("has(customer.labels.trial)").evaluate(empty) is False
    both = rule('"trial" in customer.labels || customer.labels.trial == "x"')
    assert both.evaluate(empty) is False
    assert both.evaluate({"customer": {"labels": {"trial": ""}}}) is True
    assert rule("customer.labels.size() == 0 && customer.labels.a == ''").evaluate(empty) is True
    assert empty == {"customer": {"labels": {}}}


def test_a_quota_without_use_reads_as_zeros():
    assert rule('quotas["other"].remaining == 0').evaluate(VARIABLES) is True


@pytest.mark.parametrize(
    ("text", "reads", "store"),
    [
        ('request.headers["x-tier"] == "a"', {"request.headers.x-tier"}, False),
        ("customer.labels.trial == 'a'", {"customer.labels.trial"}, False),
        ("customer.labels.size() == 1", {"customer.labels"}, False),
        ("hold.amount_nano > 5", {"hold.amount_nano"}, False),
        ("credits.available_nano > 5", {"credits.available_nano"}, True),
        ("quotas.a.used > 5", {"quotas.a.used"}, True),
        ("invoices.disputed", {"invoices.disputed"}, True),
        ("request.path == 'credits.available_nano'", {"request.path"}, False),
        ("[1].exists(credit, credit == 1)", set(), False),
    ],
)
def test_what_it_reads_is_known_when_the_policy_is_read(text, reads, store):
    expression = rule(text)
    assert expression.reads == reads
    assert expression.roots == {name.split(".")[0] for name in reads}
    assert expression.needs_store is store


def test_an_expression_survives_pickling():
    expression = rule('request.path.matches("^/v1/") && request.bytes > 5')
    again = pickle.loads(pickle.dumps(expression))
    assert again == expression
    assert hash(again) == hash(expression)
    assert again.evaluate(VARIABLES) is True


def test_json_that_would_take_too_long_or_too_deep_fails():
    deep: list = []
    for _ in range(20_000):
        deep = [deep]
    body = {
        "deep": deep,
        "few": [0] * 301,
        "long": [{"a": 1, "b": 2}] * 250,
        "longer": [0] * 5_700,
        "wide": [[0] * 3_100] * 2,
        "text": "x" * 1_000_000,
    }
    for text, reason in (
        ("request.body.deep == []", "request.body.deep nests deeper than 64"),
        (
            "request.body.long.filter(x, x.a == 1) == []",
            "request.body.long has a list or object of 250 elements, at most 160 here",
        ),
        (
            "request.body.longer.all(x, x == 1 || x == 2)",
            "request.body.longer has a list or object of 5700 elements, at most 3636 here",
        ),
        ("request.body.wide == []", "request.body.wide has more than 6000 values"),
        ("request.body.longer == request.body.few", "request.body.few has more than 300 values"),
        (
            'request.body.text + request.body.text + request.body.text + "a" == "b"',
            "it reads 1000000 characters, at most 833333 here",
        ),
    ):
        with pytest.raises(ExpressionFailed) as failed:
            rule(text).evaluate({"request": {"body": body}})
        assert str(failed.value).endswith(f"failed: {reason}")
    for text in (
        "request.body.longer.all(x, x == 0)",
        "request.body.few.map(x, x).size() == 301",
        'request.body.text.matches("y") || !request.body.text.matches("z")',
        "size(request.body.wide[0]) == 3100",
    ):
        assert rule(text).evaluate({"request": {"body": body}}) is True


def test_every_variable_has_one_line_of_explanation():
    for table in (RULE_VARIABLES, METER_VARIABLES):
        for variable in table.variables.values():
            assert variable.doc.endswith(".")
            assert "\n" not in variable.doc
