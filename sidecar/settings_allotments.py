"""Settings of allotments: blocks of credit that a gateway process places holds from by itself."""

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, Field, field_validator


class Allotments(StrEnum):
    """Whether a gateway may place holds from blocks of credit: never, or where it pays."""

    OFF = "off"
    AUTO = "auto"


class AllotmentSettings(BaseModel):
    """Part of `Settings`; sizes are counts."""

    allotments: Allotments = Allotments.OFF
    allotment_blocks_max: int = Field(default=2_000, ge=1, le=100_000)
    allotment_holds_max: int = Field(default=65_536, ge=1_000, le=1_000_000)

    @field_validator("allotments", mode="before")
    @classmethod
    def _read_allotments(cls, value: Any) -> Any:
        """YAML reads a bare `off` as a truth value."""
        return "off" if value is False else value
