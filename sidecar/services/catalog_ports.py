"""The port to a provider's catalog."""

from typing import Protocol

from sidecar.domain.catalog import FoundCatalog
from sidecar.domain.catalog_changes import Order


class ProviderCatalog(Protocol):
    """Meters, products and prices at a billing provider."""

    async def read(self) -> FoundCatalog:
        """
        Everything, archived objects included.

        Raises:
            ConfigError: There is more than may be read.
            ProviderRefused: The key may not read it.
            StoreUnavailable: No answer.
        """

    async def write(self, order: Order, key: str) -> str:
        """
        Do what the order says, once for each key.

        Args:
            order: With the ids of all objects that it names.
            key: The same order under the same key takes effect once.

        Returns:
            The object's id.

        Raises:
            ProviderRefused: It will not be done.
            ProviderFailed: It may have been done, and the answer is kept under the key.
            StoreUnavailable: It may have been done.
        """
