"""The models that tables depend on, by role: their fingerprints, and how they differ from those of a stored table.

The fingerprint of a model that scores includes the dtype of its weights. With EL_DTYPE=auto the dtype depends on the
machine: float32 on a CPU, the checkpoint's own on a GPU. A new table is scored in the dtype of this machine. A stored
table is up to date with either dtype, so that a laptop without a GPU does not show tables of a GPU as stale. Scores of
two dtypes are never mixed: a step raises an error if its inputs were scored in the other dtype, and so does a reader
over shards. Only `ModelChoice.place` imports torch, and it is called only if a table is made.
"""

from collections.abc import Iterable, Mapping
from functools import cached_property, partial
from typing import Any

from el_resources.models.causal_lm import PLACES, ModelChoice, Place, short_window
from el_resources.models.model_files import DTYPES, model_fingerprint
from el_resources.models.text_encoder import encoder_fingerprint
from el_resources.settings import Settings
from el_resources.store.stamps import Stamp

# Roles with fingerprints that depend on the dtype of the weights.
SCORED_ROLES = {"scorer", "short_reader"}
# Separator in `short_reader` between the fingerprint of the long model and the short window.
WITHIN = " within "


class OtherModelError(ValueError):
    """The inputs of a table were made with another model than the settings choose for it."""


class ModelRoles:
    """The models of the roles in `Recipe.models` under the settings of a run; each fingerprint is computed once."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._found: dict[tuple[str, Place], str] = {}

    @cached_property
    def scorer(self) -> ModelChoice:
        """The model that scores; not needed by steps whose recipe has no model."""
        return ModelChoice.long(self.settings)

    def fingerprints(
        self, roles: Iterable[str], lineage: Mapping[str, Any], stored: Stamp | None = None
    ) -> dict[str, str]:
        """Return the fingerprints of a table's roles.

        Args:
            lineage: settings and models of its inputs.
            stored: stamp of the stored table, if it is checked for staleness: then the dtype is that of its inputs'
                scores or its own, not this machine's. None if the table is made now.
        """
        wanted = list(roles)
        place: Place = "cpu"  # any place will do if the dtype is set or does not matter
        if SCORED_ROLES & set(wanted) and self.settings.dtype == "auto":
            place = self.scorer.place() if stored is None else self._place_of(lineage, stored)
        return {role: self.fingerprint(role, place) for role in wanted}

    def fingerprint(self, role: str, place: Place = "cpu") -> str:
        """Return the fingerprint of a role, with the dtype of weights in this place."""
        key = (role, place if role in SCORED_ROLES else "cpu")
        if key not in self._found:
            self._found[key] = self._computed(*key)
        return self._found[key]

    def _computed(self, role: str, place: Place) -> str:
        settings, scorer = self.settings, self.scorer
        match role:
            case "scorer":
                return scorer.fingerprint(place)
            case "tokenizer":
                return scorer.tokenizer_fingerprint()
            case "window":
                return str(scorer.window())
            case "short_reader" if settings.hmg_form == "one_model":
                return f"{scorer.fingerprint(place)}{WITHIN}{short_window(settings)}"
            case "short_reader":
                return ModelChoice.short(settings).fingerprint(place)
            case "encoder":
                return encoder_fingerprint(settings.encoder)
        raise ValueError(f"no model has the role {role!r}")

    def _place_of(self, lineage: Mapping[str, Any], stored: Stamp) -> Place:
        scorer = lineage.get("scorer", stored.settings.get("scorer"))
        return next((place for place in PLACES if self.fingerprint("scorer", place) == scorer), "cpu")

    def refuse_others(self, asset: str, shard: str, lineage: Mapping[str, Any], models: Mapping[str, str]) -> None:
        """Raise OtherModelError if another model made the inputs, since its token ids and entropies do not apply."""
        for role, fingerprint in models.items():
            was = lineage.get(role, fingerprint)
            if was == fingerprint:
                continue
            if role == "scorer" and (dtypes := self._dtypes(was, fingerprint)):
                raise OtherModelError(
                    f"{asset} of shard {shard!r} would mix scores of two dtypes: its inputs were scored on another "
                    f"machine, where EL_DTYPE=auto means {dtypes[0]}, and here it means {dtypes[1]}; set "
                    f"EL_DTYPE={dtypes[0]} to continue with that, or materialize entropy_maps for the shard first"
                )
            raise OtherModelError(
                f"{asset} of shard {shard!r} would mix two models: its inputs were made with {role} {was}, "
                f"but the settings choose {role} {fingerprint}; "
                "materialize entropy_maps for the shard first, or restore the model"
            )

    def _dtypes(self, was: str, now: str) -> tuple[str, str] | None:
        """Return the dtypes of two fingerprints of the scorer if they differ only by what `auto` means; else None."""
        if self.settings.dtype != "auto":
            return None
        by_fingerprint = {self.fingerprint("scorer", place): self.scorer.weights_dtype(place) for place in PLACES}
        return (by_fingerprint[was], by_fingerprint[now]) if {was, now} <= by_fingerprint.keys() else None

    def as_auto(self, models: Mapping[str, str], dtype: object) -> dict[str, str]:
        """Return fingerprints as earlier versions wrote them: with the word `auto` in place of the weights' dtype.

        Fingerprints that do not contain this dtype are returned unchanged. Of those versions' tables only scored ones
        recorded the dtype that `auto` meant, so only they can be recognised.

        Args:
            dtype: the dtype that the table recorded.
        """
        plain = partial(model_fingerprint, self.scorer.folder(), window=self.scorer.window_tokens or None)
        if dtype not in DTYPES:
            return dict(models)
        named, auto = plain(dtype=str(dtype)), plain(dtype="auto")
        return {
            role: auto + made.removeprefix(named) if made.startswith(named) else made for role, made in models.items()
        }

    def why_other(self, role: str, stored: Stamp, now: str) -> str:
        """Return in words how the fingerprint of a role differs from the one in a stored table."""
        model, _, window = str(stored.settings.get(role)).partition(WITHIN)
        model_now, _, window_now = now.partition(WITHIN)
        if window and model == model_now:
            return f"the short window was {window} tokens, is {window_now}"
        if role not in SCORED_ROLES or bool(window) != bool(window_now):
            return f"model changed: {role}"
        plain = partial(model_fingerprint, self.scorer.folder(), window=self.scorer.window_tokens or None)
        if model == plain(dtype="auto"):
            dtype = stored.facts.get("dtype")
            known = f" ({dtype} then)" if dtype else ""
            known += "; a run takes its scores over" if self.as_auto({role: now}, dtype) != {role: now} else ""
            return f"an earlier version recorded the weights' dtype as `auto`{known}"
        of_dtype = {plain(dtype=dtype): dtype for dtype in DTYPES}
        if model not in of_dtype:
            return f"model changed: {role}"
        placed = self.scorer.placed_tokens()
        if placed is not None and placed.bos_id != placed.own_bos_id:
            return f"BOS was the checkpoint's own, is {self.scorer.tokenizer().bos_token!r}"
        return f"the dtype of the weights was {of_dtype[model]}, is {self.settings.dtype}"
