"""What a run came to, in numbers."""

import json
from collections import Counter

from chaos.world import World

from sidecar.standins.stripe_faults import Fault


def numbers_of(seed: int, world: World) -> str:
    """Seed, kills by point, faults and totals, as JSON."""
    kills, outside = world.tally.kills, world.outside
    drawn = outside.drawn
    requests = sum(drawn.values())
    failed = {name.value: count for name, count in drawn.items() if name is not Fault.NONE}
    by_job: Counter[str] = Counter()
    for point, count in kills.items():
        by_job[point.split(":")[0]] += count
    numbers = {
        "seed": seed,
        "events": len(world.sent),
        "repeats": world.tally.repeats,
        "kills": sum(kills.values()),
        "stood_still": world.tally.stood,
        "kills_by_job": dict(by_job),
        "kills_by_point": dict(sorted(kills.items())),
        "months": round(world.ahead.days / 30.4),
        "requests_to_providers": requests,
        "faults": failed,
        "faults_percent": round(100 * sum(failed.values()) / max(1, requests)),
        "webhooks": dict(outside.answers),
        "totals": world.totals,
        "reported": {
            f"{who} {meter}": str(n) for (who, meter), n in outside.stripe.meter_totals().items()
        },
    }
    return json.dumps(numbers, indent=1)
