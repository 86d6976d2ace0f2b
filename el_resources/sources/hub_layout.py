"""Files of a config's split in a repository, by the hub's rules, which the library `datasets` implements.

This module is imported only if a repository is listed, since `datasets` takes a second to load. Nothing here loads data
or runs a script.
"""

from typing import Any

from datasets import DownloadConfig
from datasets.data_files import EmptyDatasetError, get_data_patterns, resolve_pattern, sanitize_patterns
from datasets.utils.metadata import MetadataConfigs
from fsspec.core import has_magic  # type: ignore[import-untyped]  # fsspec ships no types
from huggingface_hub import DatasetCardData
from huggingface_hub.repocard import RepoCard
from yaml import YAMLError

from el_resources.addresses import one_line
from el_resources.sources.hub_repositories import CARD, Repository


def read_card(uri: str, text: str) -> DatasetCardData:
    """Return the header of a repository's card; raise ValueError if it is not valid YAML."""
    if not text.startswith("---"):
        return DatasetCardData()
    try:
        return DatasetCardData(**RepoCard(text, ignore_metadata_errors=True).data.to_dict())
    except (YAMLError, TypeError) as error:
        raise ValueError(f"source {uri!r}: the header of its {CARD} cannot be read ({one_line(error)})") from error


def license_of(card: DatasetCardData) -> str:
    """Return the card's licence; several are joined by commas, and `other` is replaced by its name."""
    listed: Any = card.get("license") or ""
    if listed == "other":
        listed = card.get("license_name") or "other"
    return ", ".join(map(str, listed)) if isinstance(listed, list) else str(listed)


def split_files(uri: str, repository: Repository, card: DatasetCardData, config: str, split: str) -> list[str]:
    """Return the files of a split, in the order of the card's patterns; formats that are not read are among them.

    Raises:
        ValueError: the config does not exist, or it has no such split; the error lists the existing ones.
    """
    options = DownloadConfig(storage_options=repository.storage_options)
    base, patterns = _patterns(uri, repository, MetadataConfigs.from_dataset_card_data(card), config, options)
    if split not in patterns:
        raise ValueError(
            f"source {uri!r} has no split {split!r}; it has {', '.join(map(str, patterns))}; name one after #, "
            f"as in {uri.partition('#')[0]}#{next(iter(patterns))}"
        )
    found = [file for pattern in patterns[split] for file in _matching(uri, pattern, base, options)]
    return list(dict.fromkeys(found))


def _matching(uri: str, pattern: str, base: str, options: DownloadConfig) -> list[str]:
    """Return the files of a pattern; a file without wildcards must exist, and none may be outside the repository."""
    _refuse_outside(uri, pattern)
    try:
        return list(resolve_pattern(pattern, base, download_config=options))
    except FileNotFoundError as error:
        if has_magic(pattern):
            return []
        raise FileNotFoundError(
            f"source {uri!r}: its {CARD} names the file {pattern!r}, which is not there; name another config or split"
        ) from error


def _refuse_outside(uri: str, place: str) -> None:
    """Raise ValueError if a card names a place outside the repository, since cards are not trusted."""
    if "://" in place or place.startswith("/") or ".." in place.split("/"):
        raise ValueError(
            f"source {uri!r}: its {CARD} names {place!r}, which is outside the repository and is not read; "
            "name another config"
        )


def _patterns(
    uri: str, repository: Repository, configs: MetadataConfigs, config: str, options: DownloadConfig
) -> tuple[str, dict[Any, list[str]]]:
    """Return (base to which the patterns are relative, patterns by split)."""
    name = config or configs.get_default_config_name()
    if configs and not name:
        raise ValueError(f"source {uri!r} has several configs, {_listed(configs)}; name one after a slash")
    if name in configs:
        given = configs[name]
        _refuse_outside(uri, str(given.get("data_dir", "")))
        base = "/".join(filter(None, [repository.base, str(given.get("data_dir", ""))]))
        return base, (sanitize_patterns(given["data_files"]) if "data_files" in given else _found(base, options))
    base = "/".join(filter(None, [repository.base, config]))
    try:
        return base, _found(base, options)
    except EmptyDatasetError as error:
        raise ValueError(
            f"source {uri!r} has neither a config nor a folder with data named {config!r}; "
            f"its configs: {_listed(configs)}"
            if config
            else f"source {uri!r} has no data file; name another repository, or a folder of it"
        ) from error


def _found(base: str, options: DownloadConfig) -> dict[Any, list[str]]:
    """Return the patterns by split that follow from the files' names."""
    return get_data_patterns(base, download_config=options)


def _listed(configs: MetadataConfigs) -> str:
    return ", ".join(configs) or "none"
