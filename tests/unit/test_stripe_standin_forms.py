import pytest

from sidecar.standins.forms import DEPTH_MAX, PAIRS_MAX, FormError, coerce, decode_form


def test_brackets_become_nested_objects():
    text = "event_name=t&payload[stripe_customer_id]=cus_1&payload[value]=25"
    assert decode_form(text) == {
        "event_name": "t",
        "payload": {"stripe_customer_id": "cus_1", "value": "25"},
    }


def test_numbered_brackets_become_a_list_only_where_the_schema_has_one():
    decoded = decode_form("tiers[0][up_to]=10&tiers[1][up_to]=inf&payload[0]=x")
    tier = {"properties": {"up_to": {"anyOf": [{"enum": ["inf"]}, {"type": "integer"}]}}}
    schema = {
        "properties": {
            "tiers": {"type": "array", "items": tier},
            "payload": {"type": "object", "additionalProperties": {"type": "string"}},
        }
    }
    assert coerce(decoded, schema) == {
        "tiers": [{"up_to": 10}, {"up_to": "inf"}],
        "payload": {"0": "x"},
    }


def test_a_list_with_a_hole_stays_an_object_for_the_schema_check_to_refuse():
    decoded = decode_form("tiers[0]=a&tiers[2]=b")
    assert coerce(decoded, {"properties": {"tiers": {"type": "array"}}}) == {
        "tiers": {"0": "a", "2": "b"}
    }


def test_empty_brackets_append_in_order():
    assert decode_form("expand[]=a&expand[]=b") == {"expand": {"0": "a", "1": "b"}}


def test_escapes_and_plus_signs_are_decoded_in_names_and_values():
    assert decode_form("payload%5Bvalue%5D=1+%2B+%E2%82%AC") == {"payload": {"value": "1 + €"}}


@pytest.mark.parametrize(
    "text",
    [
        "a=1&a=2",
        "a[b]=1&a[b]=2",
        "a=1&a[b]=2",
        "a[b]=1&a=2",
        "a[b=1",
        "a]b=1",
        "[a]=1",
        "a[][b]=1",
        "a[b]c=1",
        "a=%ff",
        "a" + "[b]" * DEPTH_MAX + "=1",
        "&".join(f"a{index}=1" for index in range(PAIRS_MAX + 1)),
    ],
)
def test_malformed_forms_are_refused(text):
    with pytest.raises(FormError):
        decode_form(text)


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("25", "integer", 25),
        ("-25", "integer", -25),
        ("2.5", "integer", "2.5"),
        ("٢٥", "integer", "٢٥"),
        ("9" * 19, "integer", "9" * 19),
        ("", "integer", ""),
        ("true", "boolean", True),
        ("True", "boolean", "True"),
        ("1.5", "number", 1.5),
        ("nan", "number", "nan"),
        ("25", "string", "25"),
    ],
)
def test_strings_take_the_type_of_the_schema_or_stay_strings(value, kind, expected):
    result = coerce(value, {"type": kind})
    assert (result, type(result)) == (expected, type(expected))
