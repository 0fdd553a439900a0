"""Expressions of all kinds: arbitrary text never crashes, and answers agree with Python's."""

import pickle
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.domain.errors import InvalidInput
from sidecar.domain.expressions import (
    RULE_VARIABLES,
    Expression,
    ExpressionFailed,
    ResultKind,
    compile_expression,
)

WORDS = (
    *"abx.,()[]{}?:!-+*/%<>=&|\"'\\`@#_ \n\r\t019é\U0001f600\x00",
    *("&&", "||", "==", "!=", "<=", " in ", "true", "false", "null", "//", '"""', "'''", '\\"'),
    *("request", ".path", ".body", ".headers", '["x"]', "request.bytes", "request.path", "size("),
    *("has(request.body.", ".map(x,", ".exists(x,", ".matches('", "money('5')", "int(", "string("),
    *("r'", 'b"', "5u", "0x1f", "1e5", "1.5", "9223372036854775808", "-9223372036854775808"),
    *("\\u00e9", "\\ud800", "\\x00", "\\777", "duration('1h')", "timestamp(", ".getHours()"),
    *("quotas.a.used", "customer.labels", "_0", " _1 ", "._re0()", "optional.", "max(", "sum("),
)
BODIES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


def attempt(text: str, result: ResultKind = ResultKind.ANY) -> Expression | None:
    try:
        return compile_expression(text, variables=RULE_VARIABLES, result=result)
    except InvalidInput:
        return None


def evaluate_freely(expression: Expression, body) -> None:
    request = {"path": "/a", "bytes": 5, "headers": {"x": "1"}, "body": body}
    with suppress(ExpressionFailed):
        expression.evaluate({"request": request, "customer": {"labels": {"a": "b"}}})


@given(st.text(max_size=60))
@example('"\ud800"')
@example("\\")
def test_arbitrary_text_is_an_expression_or_refused(text):
    attempt(text)


@given(st.lists(st.sampled_from(WORDS), max_size=14).map("".join), BODIES)
@example("[1].map((x), x)", None)
@example("request.body.exists(x, x == _0)", [1])
@example('"\\ud800" == request.path', None)
def test_words_in_any_order_are_an_expression_or_refused(text, body):
    for result in ResultKind:
        expression = attempt(text, result)
        if expression is not None:
            assert pickle.loads(pickle.dumps(expression)) == expression
            evaluate_freely(expression, body)


QUOTES = ('"', "'", '"""', "'''")


@given(
    st.sampled_from(QUOTES),
    st.sampled_from(("", "r", "R")),
    st.lists(
        st.sampled_from(
            (
                *("customer.id", "nobody.knows", "f(x)", "//", "a", " ", "+", "(", "]", "'", '"'),
                *('\\"', "\\'", "\\\\", "\\n", "\\x41", "\\u0041", "{", ".map(x, y)"),
            )
        ),
        max_size=8,
    ).map("".join),
)
def test_names_within_strings_and_comments_are_no_variables(quote, prefix, inside):
    literal = f"{prefix}{quote}{inside}{quote}"
    expression = attempt(f"{literal} == request.path // customer.id, nobody.knows \"'")
    # The literal may end early, and what follows it is then no expression or reads a name.
    value = python_value(quote, prefix, inside)
    if value is None:
        return
    assert expression is not None, literal
    assert expression.reads == {"request.path"}
    assert expression.evaluate({"request": {"path": value}}) is True
    assert expression.evaluate({"request": {"path": value + "."}}) is False


def python_value(quote: str, prefix: str, inside: str) -> str | None:
    """What the literal is in Python, whose strings are CEL's but for quotes in raw ones."""
    if prefix:
        return None if quote[0] in inside or inside.endswith("\\") else inside
    bare = inside.replace("\\\\", "").replace("\\" + quote[0], "")
    if quote[0] in bare or bare.endswith("\\"):
        return None
    pairs = {"\\\\": "\\", '\\"': '"', "\\'": "'", "\\n": "\n", "\\x41": "A", "\\u0041": "A"}
    answer, position = "", 0
    while position < len(inside):
        for escaped, plain in pairs.items():
            if inside.startswith(escaped, position):
                answer, position = answer + plain, position + len(escaped)
                break
        else:
            if inside[position] == "\\":
                return None
            answer, position = answer + inside[position], position + 1
    return answer


def both(cel: str, python: str):
    def join(parts):
        inner = [f"({part[1]})" for part in parts]
        return cel.format(*(part[0] for part in parts)), python.format(*inner)

    return join


NUMBERS = st.integers(-(2**31), 2**31)
COMPARISONS = st.tuples(
    st.sampled_from(("request.bytes", "hold.amount_nano")),
    st.sampled_from(("<", "<=", "==", "!=", ">", ">=")),
    NUMBERS,
).map(lambda parts: (f"{parts[0]} {parts[1]} {parts[2]}",) * 2)
TESTS = st.sampled_from(
    (
        ('customer.labels.a == "x"', "labels.get('a', '') == 'x'"),
        ('has(customer.labels.a) && "b" in customer.labels', "'a' in labels and 'b' in labels"),
        ("!invoices.disputed", "not disputed"),
        ("customer.labels.size() > 1", "len(labels) > 1"),
    )
)
BOOLEANS = st.recursive(
    COMPARISONS | TESTS,
    lambda inner: (
        st.tuples(inner, inner).map(both("({}) && ({})", "({}) and ({})"))
        | st.tuples(inner, inner).map(both("({}) || ({})", "({}) or ({})"))
        | st.tuples(inner).map(both("!({})", "not ({})"))
        | st.tuples(inner, inner, inner).map(both("({}) ? ({}) : ({})", "({1} if {0} else {2})"))
    ),
    max_leaves=10,
)


@given(
    BOOLEANS,
    NUMBERS,
    NUMBERS,
    st.dictionaries(st.sampled_from("abc"), st.sampled_from(("", "x"))),
    st.booleans(),
)
def test_answers_agree_with_python(texts, size, held, labels, disputed):
    text, python = texts
    expression = attempt(text, ResultKind.BOOLEAN)
    if expression is None:
        assert len(text) > 1_024
        return
    python = python.replace("request.bytes", "size").replace("hold.amount_nano", "held")
    given_labels = dict(labels)
    found = expression.evaluate(
        {
            "request": {"bytes": size},
            "hold": {"amount_nano": held},
            "customer": {"labels": labels},
            "invoices": {"disputed": disputed},
        }
    )
    names = {"size": size, "held": held, "labels": given_labels, "disputed": disputed, "len": len}
    assert found is eval(python, {"__builtins__": {}}, names)
    assert labels == given_labels


@pytest.mark.parametrize(
    "text", ["!" * 1_000 + "true", "-" * 1_000 + "1", "request.body" + ".b" * 500]
)
def test_long_chains_do_not_crash(text):
    expression = attempt(text)
    assert expression is not None
    evaluate_freely(expression, {"b": 1})
