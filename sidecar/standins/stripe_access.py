"""
Who may call what: secret keys everything, restricted keys what their scopes name.

The texts are those of public reports of the error (stripe/stripe-node issue 2246). Stripe
publishes no full list of scopes; the names here follow the ones that reports show.
"""

import re
from collections.abc import Iterable

from sidecar.standins.stripe_errors import ApiError
from sidecar.standins.stripe_settings import StripeSettings

KEYS_MAX = 100

_KEY = re.compile(r"(sk|rk)_(test|live)_[A-Za-z0-9_]{3,240}")
_SHOWN_CHARACTERS = 4
# First words of an operation's id, longest first, and the resource that scopes name.
_RESOURCES = (
    ("account", "account"),
    ("billing.meter_event_adjustment", "billing_meter_event_adjustment"),
    ("billing.meter_event_summary", "billing_meter"),
    ("billing.meter_event", "billing_meter_event"),
    ("billing.meter", "billing_meter"),
    ("charge", "charge"),
    ("checkout.session", "checkout_session"),
    ("credit_note", "credit_note"),
    ("customer.payment_method", "payment_method"),
    ("customer", "customer"),
    ("dispute", "dispute"),
    ("event", "event"),
    ("invoice", "invoice"),
    ("payment_intent", "payment_intent"),
    ("payment_link", "payment_links"),
    ("payment_method", "payment_method"),
    ("price", "plan"),
    ("product", "product"),
    ("refund", "charge"),
    ("subscription", "subscription"),
    ("v2.core.event_destination", "event_destination"),
    ("v2.core.event", "event"),
    ("webhook_endpoint", "webhook"),
)


class Access:
    """The keys of the account."""

    def __init__(self, settings: StripeSettings) -> None:
        self._account_id = settings.account_id
        self._mode = "live" if settings.livemode else "test"
        self._scopes: dict[str, frozenset[str]] = {}

    def add_restricted_key(self, key: str, scopes: Iterable[str]) -> None:
        """
        Let a key do what its scopes name (`rak_customer_read`, `rak_customer_write`, ...).

        Raises:
            ValueError: For a key that is no restricted key, or more than KEYS_MAX of them.
        """
        if not _KEY.fullmatch(key) or not key.startswith(f"rk_{self._mode}_"):
            message = f"a restricted key of this account begins with rk_{self._mode}_"
            raise ValueError(message)
        if len(self._scopes) >= KEYS_MAX:
            message = "KEYS_MAX restricted keys are kept"
            raise ValueError(message)
        self._scopes[key] = frozenset(scopes)

    def check_key(self, key: str) -> None:
        """Refuse what is no key of this account: 401, without repeating it (answers get logged)."""
        match = _KEY.fullmatch(key)
        if match is None or match[2] != self._mode:
            raise ApiError(401, "Invalid API Key provided.")
        if match[1] == "rk" and key not in self._scopes:
            raise ApiError(401, "Invalid API Key provided.")

    def check_scope(self, key: str, operation_id: str, method: str) -> None:
        """Refuse an operation that the key's scopes do not cover: 403 that names the scope."""
        if key not in self._scopes:
            return
        needed = scope_of(operation_id, method)
        granted = self._scopes[key]
        if needed in granted or needed.replace("_read", "_write") in granted:
            return  # Who may write a resource may read it.
        hidden = f"{key[:8]}{'*' * 20}{key[-_SHOWN_CHARACTERS:]}"
        raise ApiError(
            403,
            f"The provided key '{hidden}' does not have the required permissions for this "
            f"endpoint on account '{self._account_id}'. Having the '{needed}' permission would "
            "allow this request to continue.",
        )


def scope_of(operation_id: str, method: str) -> str:
    """The scope that an operation needs."""
    resource = next(
        (name for words, name in _RESOURCES if operation_id.startswith(words)), "unknown"
    )
    reads = method == "GET" or operation_id == "invoice.create_preview"
    return f"rak_{resource}_{'read' if reads else 'write'}"
