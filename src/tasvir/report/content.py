"""What fills a panel of a page, whichever page it is."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Content:
    """What fills a panel."""

    kind: str
    """The template's macro that sets it."""
    words: str
    values: dict[str, Any] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        """The template reads a value as an attribute."""
        try:
            return self.__dict__["values"][name]
        except KeyError:
            raise AttributeError(name) from None


@dataclass(frozen=True)
class Made:
    """A panel with its content, or with the reason why there is none."""

    title: str
    group: str
    content: Content


def missing(error: Exception) -> Content:
    """In place of a panel's content, what went wrong."""
    return Content("words", f"This could not be drawn. {reason(error)}")


def reason(error: Exception) -> str:
    """What went wrong, short enough for a panel."""
    said = " ".join(str(error).split())
    return said if len(said) <= 180 else said[:179].rsplit(" ", 1)[0] + " …"
