"""Where something stands in a policy file, and the problems that a load has found."""

from dataclasses import dataclass

from sidecar.domain.errors import ConfigError

PROBLEMS_SHOWN_MAX = 20
_PROBLEMS_KEPT_MAX = 1_000


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A spot in a file; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"

    @property
    def spot(self) -> str:
        """File and line."""
        return f"{self.file}:{self.line}"


class Problems:
    """Collects what is wrong, so that one load tells all of it."""

    def __init__(self) -> None:
        self._found: list[tuple[Place, str]] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, place: Place, message: str) -> None:
        """Note one problem: what was found, then what is allowed."""
        self._count += 1
        if len(self._found) < _PROBLEMS_KEPT_MAX:
            self._found.append((place, message))

    def raise_if_any(self) -> None:
        """
        End the load if something is wrong.

        Raises:
            ConfigError: One line per problem, in file order, at most PROBLEMS_SHOWN_MAX.
        """
        if not self._count:
            return
        lines = [f"{place}: {message}" for place, message in sorted(self._found)]
        hidden = self._count - PROBLEMS_SHOWN_MAX
        if hidden > 0:
            lines = [*lines[:PROBLEMS_SHOWN_MAX], f"and {hidden} more"]
        raise ConfigError("\n".join(lines))
