"""Names under which quantities are reported, and what a provider's asynchronous errors mean."""

import re
from typing import Final

_NAME: Final = re.compile(r"(sc1:[0-9a-f]{64}(?::r[1-9][0-9]{0,8})?)(?::[0-9]{1,9})?", re.ASCII)

MENDABLE: Final = frozenset(
    {
        "archived_meter",
        "meter_event_customer_not_found",
        "meter_event_no_customer_defined",
        "no_meter",
        "missing_dimension_payload_keys",
        "other_currency",
        "test_customer",
    }
)
"""
Codes whose cause is outside the row: once it is mended, the same quantity can be reported.

Source: https://docs.stripe.com/billing/subscriptions/usage-based/recording-usage-api.
"""


def read_identifier(text: str) -> str | None:
    """
    The identifier in an identifier or an HTTP key; None if it is neither of ours.

    An HTTP key is the identifier, a colon, and the number of the key.
    """
    found = _NAME.fullmatch(text)
    return None if found is None else found[1]
