"""Payment requests of the Paystack stand-in: draft, pending, paid, archived."""

from dataclasses import dataclass, field
from typing import Any

from sidecar.standins.paystack_errors import PaystackError, take
from sidecar.standins.paystack_transactions import OBJECTS_MAX, Emit, Transactions

CURRENCIES = frozenset({"NGN", "GHS", "ZAR", "USD"})
_PAGE_MAX = 100
_PARAMS: dict[str, type | tuple[type, ...]] = {
    "customer": (str, int),
    "currency": str,
    "amount": int,
    "due_date": str,
    "description": str,
    "line_items": list,
    "tax": list,
    "draft": bool,
    "send_notification": bool,
}
_ITEM: dict[str, type | tuple[type, ...]] = {"name": str, "amount": int, "quantity": int}


@dataclass(slots=True)
class PaymentRequest:
    """One request for a payment."""

    id: int
    code: str
    customer: int
    amount: int
    currency: str
    description: str
    status: str
    line_items: list[dict[str, Any]] = field(default_factory=list)
    paid: bool = False
    archived: bool = False
    payments: int = 0

    def to_json(self) -> dict[str, Any]:
        """As Paystack shows it."""
        return {
            "id": self.id,
            "domain": "test",
            "request_code": self.code,
            "customer": self.customer,
            "amount": self.amount,
            "currency": self.currency,
            "description": self.description,
            "status": self.status,
            "line_items": self.line_items,
            "paid": self.paid,
            "archived": self.archived,
        }


class PaymentRequests:
    """The account's payment requests. It has no keys for repeats, as Paystack has none."""

    def __init__(self, transactions: Transactions, emit: Emit) -> None:
        self._transactions = transactions
        self._emit = emit
        self.requests: dict[str, PaymentRequest] = {}

    def create(self, params: dict[str, Any]) -> dict[str, Any]:
        """A draft, or a live one."""
        take(params, _PARAMS, ("customer",))
        customer = self._transactions.find_customer(params["customer"])
        currency = str(params.get("currency", "NGN"))
        if currency not in CURRENCIES:
            raise PaystackError(400, "Currency is not supported for payment requests")
        items = [take(dict(item), _ITEM, ("name",)) for item in params.get("line_items", [])]
        total = sum(int(item["amount"]) * int(item.get("quantity", 1)) for item in items)
        amount = total or int(params.get("amount", 0))
        if amount <= 0:
            raise PaystackError(400, "Amount must be an integer", code="invalid_amount")
        if len(self.requests) >= OBJECTS_MAX:
            raise PaystackError(400, "Stand-in: too many objects")
        number = self._transactions.next_id()
        made = PaymentRequest(
            id=number,
            code=f"PRQ_standin{number}",
            customer=customer.id,
            amount=amount,
            currency=currency,
            description=str(params.get("description", "")),
            status="draft" if params.get("draft") else "pending",
            line_items=items,
        )
        self.requests[made.code] = made
        return made.to_json()

    def list(self, query: dict[str, str]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """A page, the newest first, and its meta."""
        unknown = query.keys() - {"customer", "status", "perPage", "page"}
        if unknown:
            raise PaystackError(400, f"Stand-in: {min(unknown)} is not modelled")
        size = int(query.get("perPage", "50"))
        page = int(query.get("page", "1"))
        if not 1 <= size <= _PAGE_MAX or page < 1:
            raise PaystackError(400, "perPage must be 1 to 100")
        found = [
            one
            for one in sorted(self.requests.values(), key=lambda one: -one.id)
            if query.get("customer", str(one.customer)) == str(one.customer)
            and query.get("status", one.status) == one.status
            and not one.archived
        ]
        first = (page - 1) * size
        meta = {"total": len(found), "perPage": size, "page": page}
        return [one.to_json() for one in found[first : first + size]], meta

    def verify(self, code: str) -> dict[str, Any]:
        """One request."""
        return self._find(code).to_json()

    def finalize(self, code: str, params: dict[str, Any]) -> dict[str, Any]:
        """Make a draft live."""
        take(params, {"send_notification": bool}, ())
        found = self._find(code)
        if found.status != "draft" or found.archived:
            raise PaystackError(400, "Payment request has already been finalized")
        found.status = "pending"
        self._emit("paymentrequest.pending", found.to_json())
        return found.to_json()

    def archive(self, code: str) -> dict[str, Any]:
        """Take it off the list."""
        found = self._find(code)
        found.archived = True
        return found.to_json()

    def pay(self, code: str) -> None:
        """The customer pays. One that is live can be paid; a draft cannot."""
        found = self._find(code)
        if found.status not in ("pending", "success"):
            raise PaystackError(400, "Payment request is not live")
        found.payments += 1
        found.status, found.paid = "success", True
        self._emit("paymentrequest.success", found.to_json())

    def _find(self, code: str) -> PaymentRequest:
        found = self.requests.get(code)
        if found is None:
            raise PaystackError(404, "Slug is invalid", code="not_found")
        return found
