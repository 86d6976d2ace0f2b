"""View of the settings for a step, with the settings that its recipe names and no others."""

from collections.abc import Collection
from typing import Any


class UnnamedSettingError(AttributeError):
    """A step reads a setting that its recipe does not name, so the fingerprint of its table would not include it."""


class SeenSettings:
    """Some of the settings, as attributes.

    Args:
        whole: all settings.
        reader: name of the step that reads, for the error.
        fields: names of all settings.
        names: names of the settings that may be read.
    """

    def __init__(self, whole: Any, reader: str, fields: Collection[str], names: Collection[str]) -> None:
        self.whole, self._reader, self._fields, self._names = whole, reader, fields, frozenset(names)

    def __getattr__(self, name: str) -> Any:
        if name not in self._fields:
            raise AttributeError(f"there is no setting {name!r}")
        if name not in self._names:
            raise UnnamedSettingError(
                f"{self._reader} reads the setting {name!r}, which its recipe does not name; "
                f"add it to the recipe of {self._reader} in el_assets/tables/recipes.py"
            )
        return getattr(self.whole, name)

    def subset(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Return the named settings, as `Settings.subset` does."""
        return {name: getattr(self, name) for name in sorted(names)}
