"""Money that goes back: refunds and disputes. Source: docs.stripe.com/api/{refunds,disputes}."""

from collections.abc import Mapping
from typing import Any

from sidecar.standins.stripe_errors import ApiError, refuse_unmodelled
from sidecar.standins.stripe_event_log import EventLog
from sidecar.standins.stripe_payments import Payments
from sidecar.standins.stripe_rooms import Item, Room, metadata_of
from sidecar.standins.stripe_settings import Clock, StripeSettings, epoch_seconds

_REFUND = frozenset({"amount", "charge", "metadata", "payment_intent", "reason"})
RESPONSE_DAYS = 7


class Refunds:
    """The account's refunds."""

    def __init__(
        self, settings: StripeSettings, clock: Clock, log: EventLog, payments: Payments
    ) -> None:
        self._clock = clock
        self._log = log
        self._payments = payments
        self.room = Room("refund", "re", "/v1/refunds", settings.objects_max)

    def create(self, params: Mapping[str, Any]) -> Item:
        """
        Give a charge back, whole or in part.

        Raises:
            ApiError: For an unknown or unpaid charge, or more than is left of it.
        """
        refuse_unmodelled(params, _REFUND)
        charge = self._charge_of(params)
        left = charge["amount_captured"] - charge["amount_refunded"]
        amount = params.get("amount", left)
        if left == 0:
            raise ApiError(
                400,
                f"Charge {charge['id']} has already been refunded.",
                code="charge_already_refunded",
            )
        if not 1 <= amount <= left:
            raise ApiError(
                400,
                f"Refund amount ({amount}) is greater than unrefunded amount on charge ({left})",
                param="amount",
            )
        refund = self.room.add(
            {
                "id": self.room.new_id(),
                "object": "refund",
                "amount": amount,
                "balance_transaction": None,
                "charge": charge["id"],
                "created": epoch_seconds(self._clock()),
                "currency": charge["currency"],
                "metadata": metadata_of(params),
                "payment_intent": charge["payment_intent"],
                "reason": params.get("reason"),
                "receipt_number": None,
                "status": "succeeded",
            }
        )
        charge["amount_refunded"] += amount
        charge["refunded"] = charge["amount_refunded"] == charge["amount_captured"]
        self._log.emit("refund.created", refund)
        self._log.emit("charge.refunded", charge)
        return refund

    def fail(self, refund_id: str) -> Item:
        """The bank sends a refund back, some days later: the money is the account's again."""
        refund = self.room.get(refund_id)
        if refund["status"] != "succeeded":
            raise ApiError(400, f"The refund is {refund['status']}.")
        refund.update(status="failed", failure_reason="expired_or_canceled_card")
        charge = self._payments.charges.get(refund["charge"])
        charge["amount_refunded"] -= refund["amount"]
        charge["refunded"] = False
        self._log.emit("refund.failed", refund)
        self._log.emit("charge.refund.updated", refund)
        return refund

    def _charge_of(self, params: Mapping[str, Any]) -> Item:
        if ("charge" in params) == ("payment_intent" in params):
            raise ApiError(
                400, "One of the following params should be provided: payment_intent, charge."
            )
        if "charge" in params:
            charge = self._payments.charges.get(params["charge"], param="charge")
        else:
            intent = self._payments.intents.get(params["payment_intent"], param="payment_intent")
            if intent["latest_charge"] is None:
                raise ApiError(
                    400, "This PaymentIntent does not have a successful charge to refund."
                )
            charge = self._payments.charges.get(intent["latest_charge"])
        if not charge["paid"]:
            raise ApiError(400, f"Charge {charge['id']} has not been paid.")
        return charge


class Disputes:
    """What the owners of cards dispute: opened and closed by the test, as by their banks."""

    def __init__(
        self, settings: StripeSettings, clock: Clock, log: EventLog, payments: Payments
    ) -> None:
        self._clock = clock
        self._log = log
        self._payments = payments
        self.room = Room("dispute", "dp", "/v1/disputes", settings.objects_max)

    def open(
        self, charge_id: str, *, amount: int | None = None, reason: str = "fraudulent"
    ) -> Item:
        """Dispute a paid charge, over its whole amount or less (minor units)."""
        charge = self._payments.charges.get(charge_id)
        if not charge["paid"] or charge["disputed"]:
            raise ApiError(400, f"Charge {charge_id} cannot be disputed.")
        now = epoch_seconds(self._clock())
        dispute = self.room.add(
            {
                "id": self.room.new_id(),
                "object": "dispute",
                "amount": charge["amount"] if amount is None else amount,
                "balance_transactions": [],
                "charge": charge_id,
                "created": now,
                "currency": charge["currency"],
                "enhanced_eligibility_types": [],
                "evidence": {},
                "evidence_details": {
                    "due_by": now + RESPONSE_DAYS * 86_400,
                    "has_evidence": False,
                    "past_due": False,
                    "submission_count": 0,
                },
                "is_charge_refundable": False,
                "livemode": False,
                "metadata": {},
                "payment_intent": charge["payment_intent"],
                "reason": reason,
                "status": "needs_response",
            }
        )
        charge["disputed"] = True
        self._log.emit("charge.dispute.created", dispute)
        self._log.emit("charge.dispute.funds_withdrawn", dispute)
        return dispute

    def close(self, dispute_id: str, *, won: bool) -> Item:
        """The bank decides for or against us."""
        dispute = self.room.get(dispute_id)
        if dispute["status"] in ("won", "lost"):
            raise ApiError(400, f"The dispute is {dispute['status']} already.")
        dispute["status"] = "won" if won else "lost"
        self._log.emit("charge.dispute.closed", dispute)
        if won:
            self._log.emit("charge.dispute.funds_reinstated", dispute)
        return dispute
