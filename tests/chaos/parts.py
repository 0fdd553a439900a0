"""What several jobs are made of."""

from pathlib import Path

from chaos.points import Stores

from sidecar.outbound.policy_files.holder import PolicyHolder

SHARDS = 4
STRIPE_KEY = "sk_test_standin"
SHORT_SECONDS = 0.01


async def policies_of(stores: Stores) -> PolicyHolder:
    """What the policy files say now."""
    policies = PolicyHolder(Path(stores.task.policies))
    await policies.load_initial()
    return policies
