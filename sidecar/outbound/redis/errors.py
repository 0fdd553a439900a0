"""What this store can say beside the errors that every store has."""

from sidecar.domain.errors import StoreUnavailable


class StoreDamaged(StoreUnavailable):
    """
    The store answered, but what it keeps is no record or balance of ours; nothing was written.

    Handled as a store that is away: checks fall to their rule's word, senders repeat, sweeps
    go on. A repeat helps only once somebody has repaired the store.
    """
