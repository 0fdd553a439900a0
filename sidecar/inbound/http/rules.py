"""What the admin API does with rules."""

from sidecar.inbound.http.edge import ADMIN
from sidecar.inbound.http.field_types import ResponseModel
from sidecar.inbound.http.problems import FieldError, ProblemCode, ProblemError
from sidecar.inbound.http.routing import Answer, Call


class ReloadAnswer(ResponseModel):
    """The policy that is in force after a reload."""

    policy_version: str
    rules: int


async def reload_rules(call: Call) -> Answer:
    """
    Read the policy files again, here and on every gateway.

    Raises:
        ProblemError: The files cannot be used; the answer lists where, and the last good
            policy stays in force.
    """
    reloaded = await call.request.app[ADMIN].reloads.reload()
    if reloaded.problems:
        raise ProblemError(
            ProblemCode.POLICY_REFUSED,
            f"the policy files cannot be used; {reloaded.policy_version} stays in force",
            errors=tuple(_error(problem) for problem in reloaded.problems),
        )
    return Answer(
        body=ReloadAnswer(policy_version=reloaded.policy_version, rules=reloaded.rules)
    )


def _error(problem: str) -> FieldError:
    """A problem's place, and what is wrong there."""
    place, separator, message = problem.partition(": ")
    return FieldError(field=place if separator else "", message=message or place)
