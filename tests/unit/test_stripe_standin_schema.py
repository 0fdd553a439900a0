import pytest

from sidecar.standins.stripe_errors import ApiError, ResponseDoesNotFit
from sidecar.standins.stripe_schema import load_schema

SCHEMA = load_schema()


def refusal_of(method, path, text):
    operation, _ = SCHEMA.find(method, path)
    with pytest.raises(ApiError) as caught:
        operation.parse_params(text)
    assert caught.value.status == 400
    return caught.value.body()["error"]


@pytest.mark.parametrize(
    ("path", "text", "param", "code"),
    [
        ("meter_events", "event_name=t", "payload", "parameter_missing"),
        ("meter_events", "event_name=t&payload[a]=1&typo=1", "typo", "parameter_unknown"),
        ("meter_events", "event_name=t&payload[a][b]=1", "payload[a]", None),
        ("meter_events", f"event_name=t&payload[a]=1&identifier={'x' * 101}", "identifier", None),
        (
            "meter_events",
            "event_name=t&payload[a]=1&timestamp=2026-11-20T00:00:00Z",
            "timestamp",
            "parameter_invalid_integer",
        ),
        (
            "meters",
            "display_name=a&event_name=t&default_aggregation[formula]=max",
            "default_aggregation[formula]",
            None,
        ),
        (
            "meters",
            "display_name=a&event_name=t&default_aggregation[x]=1&default_aggregation[formula]=sum",
            "default_aggregation[x]",
            "parameter_unknown",
        ),
        (
            "meters",
            (
                "display_name=a&event_name=t&default_aggregation[formula]=sum"
                "&customer_mapping[type]=by_id"
            ),
            "customer_mapping[event_payload_key]",
            "parameter_missing",
        ),
        ("meter_event_adjustments", "event_name=t&type=undo", "type", None),
    ],
)
def test_a_request_outside_the_description_is_a_400_that_names_the_parameter(
    path, text, param, code
):
    error = refusal_of("POST", f"/v1/billing/{path}", text)
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert error.get("code") == code


def test_query_strings_are_checked_like_bodies():
    error = refusal_of("GET", "/v1/billing/meters/mtr_1/event_summaries", "customer=cus_1")
    assert (error["code"], error["param"]) == ("parameter_missing", "end_time")


def test_a_long_value_is_cut_in_the_message():
    error = refusal_of("POST", "/v1/billing/meter_events", f"event_name={'x' * 5000}&payload[a]=1")
    assert len(error["message"]) < 200


def test_a_literal_path_wins_over_a_parameter():
    operation, ids = SCHEMA.find("POST", "/v1/invoices/create_preview")
    assert (operation.id, ids) == ("invoice.create_preview", {})
    operation, ids = SCHEMA.find("POST", "/v1/invoices/in_1")
    assert (operation.id, ids) == ("invoice.update", {"invoice": "in_1"})


@pytest.mark.parametrize("path", ["/", "/v1/nothing", "/v1/billing/meters/", "/v1/usage_records"])
def test_an_unknown_path_is_a_404_in_stripes_shape(path):
    with pytest.raises(ApiError) as caught:
        SCHEMA.find("GET", path)
    assert caught.value.status == 404
    assert caught.value.body()["error"]["message"].startswith("Unrecognized request URL (GET:")


@pytest.mark.parametrize(
    "body",
    [
        {"object": "billing.meter_event", "created": "1"},
        {"object": "billing.meter_event", "payload": {"value": 25}},
        {"object": "billing.meter_event", "invented": 1},
        {"created": 1},
    ],
)
def test_a_response_outside_the_description_is_a_bug(body):
    operation, _ = SCHEMA.find("POST", "/v1/billing/meter_events")
    with pytest.raises(ResponseDoesNotFit, match=r"billing\.meter_event"):
        operation.check_response(200, body)


def test_objects_of_a_list_are_checked_one_by_one():
    operation, _ = SCHEMA.find("GET", "/v1/billing/meters")
    page = {"object": "list", "url": "/", "has_more": False}
    good = {"id": "mtr_1", "object": "billing.meter"}
    operation.check_response(200, {**page, "data": [good]})
    for bad in ({"object": "billing.meter"}, {**good, "invented": 1}):
        with pytest.raises(ResponseDoesNotFit):
            operation.check_response(200, {**page, "data": [good, bad]})


def test_an_error_with_an_unknown_type_is_a_bug():
    operation, _ = SCHEMA.find("POST", "/v1/billing/meter_events")
    operation.check_response(400, {"error": {"type": "invalid_request_error", "message": "no"}})
    with pytest.raises(ResponseDoesNotFit):
        operation.check_response(400, {"error": {"type": "surprise", "message": "no"}})
