"""Records that the ledger cannot take, as they go to quarantine."""

import json
from dataclasses import asdict
from datetime import datetime

from sidecar.services.control_ports import SetAsideRecord, StreamRecord


def set_aside(record: StreamRecord, reason: str, problem: str) -> SetAsideRecord:
    """A record for quarantine, with all that is needed to post it later."""
    return SetAsideRecord(
        entry_id=record.entry_id,
        key=record.entry_id,
        reason=reason,
        payload=json.dumps({"problem": problem, "record": asdict(record)}, default=_plain),
    )


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    return str(value)
