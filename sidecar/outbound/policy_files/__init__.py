"""Policy files: YAML to the compiled policy, with the place of every mistake."""

from sidecar.outbound.policy_files.loader import LoadedPolicy, load_policy
from sidecar.outbound.policy_files.schema import policy_schema, policy_schema_text

__all__ = ["LoadedPolicy", "load_policy", "policy_schema", "policy_schema_text"]
