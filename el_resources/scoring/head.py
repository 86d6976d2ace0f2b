"""Entropy and negative log-likelihood from hidden states, without the logits of a whole sequence in memory.

Shapes: R rows whose predictions are wanted, D hidden width, V vocabulary.

Algorithm: the head runs on a bounded chunk of rows at a time; entropy `-Σ p ln p` and NLL `-ln p(target)` come from the
same fp32 exponentials, on a GPU in one pass over the logits (head_kernel.py). A plain head in half precision on Hopper
does not write logits at all (fused_head_kernel.py).
Guarantees: scores are fp32 for every dtype of the weights. Scaling of logits after the head (Granite, Cohere,
Falcon-H1) and soft-capping (Gemma) are applied; a model that changes its logits in another way is refused.
Costs: three fp32 buffers of chunk rows × V on a CPU, and the logits if they have another dtype; on a GPU one or none.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from el_resources.scoring.body import hidden_states

_PROBE_TOKENS = 8
# Logits in memory at once: as many as fit the caches of a CPU, and as many as fill a GPU.
CPU_LOGITS, CUDA_LOGITS = 2**20, 2**29
# Least rows on a CPU. A product with few rows reads all output embeddings for little work: with a large vocabulary,
# such as the 262,144 tokens of Gemma 3, this number is about twice as fast as 4 rows.
CPU_ROWS_MIN = 64

_Scores = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class VocabularyHead:
    """A model's output embeddings, and the changes that it makes to their logits."""

    projection: nn.Module
    scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def from_model(cls, model: Any) -> "VocabularyHead":
        """Return the head of a causal language model, after a comparison with the model's logits for a few tokens."""
        projection = model.get_output_embeddings()
        if projection is None:
            raise ValueError(f"{type(model).__name__} has no output embeddings; give a causal language model")
        config = model.config.get_text_config()
        head = cls(projection=projection, scale=_scale(config), softcap=_softcap(config))
        head._check_against(model)
        return head

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """Return the logits of rows in the weights' dtype; in fp32 on a GPU, which keeps products of halves exact."""
        logits_RV = self._products(hidden_RD)
        if self.scale != 1.0:
            logits_RV = logits_RV * self.scale
        if self.softcap is not None:
            logits_RV = torch.tanh(logits_RV / self.softcap) * self.softcap
        return logits_RV

    def _products(self, hidden_RD: Tensor) -> Tensor:
        weight_VD = self._plain_weight()
        if weight_VD is not None and hidden_RD.is_cuda and hidden_RD.dtype in (torch.float16, torch.bfloat16):
            return torch.mm(hidden_RD, weight_VD.T, out_dtype=torch.float32)
        logits_RV: Tensor = self.projection(hidden_RD)
        return logits_RV

    def _plain_weight(self) -> Tensor | None:
        """Return the output embeddings V × D if the head is a plain product with them; else None."""
        plain = isinstance(self.projection, nn.Linear) and type(self.projection) is nn.Linear
        return self.projection.weight if plain and self.projection.bias is None else None

    def scores(self, hidden_RD: Tensor, targets_R: Tensor, head_rows: int) -> tuple[Tensor, Tensor]:
        """Return entropy and NLL of each row's prediction in nats, computed for at most `head_rows` rows at a time."""
        score, n_rows = self._fastest(hidden_RD, head_rows)
        chunks = zip(hidden_RD.split(n_rows), targets_R.split(n_rows), strict=True)
        entropies, nlls = zip(*(score(hidden, targets) for hidden, targets in chunks), strict=True)
        return torch.cat(entropies), torch.cat(nlls)

    def _fastest(self, hidden_RD: Tensor, head_rows: int) -> tuple[_Scores, int]:
        """Return the fastest function that scores such rows on their device, and its number of rows at once."""
        if not hidden_RD.is_cuda:
            return lambda hidden, targets: entropy_and_nll(self.logits(hidden), targets), head_rows
        from el_resources.scoring import fused_head_kernel, head_kernel

        weight_VD = self._plain_weight() if self.scale == 1.0 and self.softcap is None else None
        if weight_VD is not None and fused_head_kernel.takes(hidden_RD, weight_VD):
            n_rows = fused_head_kernel.rows_at_once(len(weight_VD))
            return lambda hidden, targets: fused_head_kernel.entropy_and_nll_of(hidden, weight_VD, targets), n_rows
        return lambda hidden, targets: head_kernel.entropy_and_nll_once(self.logits(hidden), targets), head_rows

    def _probe(self, model: Any, inputs_BN: Tensor) -> tuple[Tensor, Tensor]:
        """Return the model's own logits and those of this head, a row for each input."""
        expected = model(input_ids=inputs_BN, use_cache=False).logits
        logits = self.logits(hidden_states(model, inputs_BN).flatten(0, 1))
        return expected.flatten(0, 1).float(), logits.float()

    @torch.inference_mode()
    def _check_against(self, model: Any) -> None:
        """Raise ValueError if a model's own logits differ from this head's, or if no token has finite ones."""
        n_tokens = min(_PROBE_TOKENS, model.get_input_embeddings().weight.shape[0])
        tokens_N = torch.arange(n_tokens, device=model.device)
        expected_NV, logits_NV = self._probe(model, tokens_N[None])
        if not expected_NV.isfinite().all():
            # A token that overflows spoils its whole sequence: read each alone, and leave out those that overflow.
            expected_NV, logits_NV = self._probe(model, tokens_N[:, None])
            fine_N = expected_NV.isfinite().all(dim=-1)
            if not fine_N.any():
                raise ValueError(
                    f"the logits of {type(model).__name__} are not finite with weights in "
                    f"{str(model.dtype).removeprefix('torch.')}; load it in bfloat16 or float32 (EL_DTYPE), whose "
                    "range is wider than that of float16; if float32 does not help, its weights are faulty"
                )
            expected_NV, logits_NV = expected_NV[fine_N], logits_NV[fine_N]
        # Both ways round alike, so a larger difference is a factor or a cap that this module does not know.
        rounding = 1e-5 if model.dtype == torch.float32 else 1e-2
        tolerance = rounding * float(expected_NV.abs().max()) + 1e-6
        gap = float((expected_NV - logits_NV).abs().max())
        if not gap <= tolerance:
            raise ValueError(
                f"{type(model).__name__} changes its logits after the head in a way that is not known here "
                f"(they differ by {gap:.3g}); score with another model, or add its rule to el_resources/scoring/head.py"
            )


def rows_at_once(vocab_size: int, *, on_cpu: bool) -> int:
    """Return the number of rows of logits at once for the device; products on a GPU use tiles of 128 rows."""
    if on_cpu:
        return max(CPU_ROWS_MIN, CPU_LOGITS // vocab_size)
    rows = max(1, CUDA_LOGITS // vocab_size)
    return rows if rows < 128 else rows // 128 * 128


def entropy_and_nll(logits_RV: Tensor, targets_R: Tensor) -> tuple[Tensor, Tensor]:
    """Return the entropy of each row's distribution and the NLL of its target, in nats and fp32.

    With s = logits - max and Z = Σ exp(s): `H = ln Z - Σ s exp(s) / Z` and `NLL = ln Z - s[target]`. For
    likely tokens s is near 0, so the rounding errors are about a fifth of those of Σ p ln p.
    """
    logits_RV = logits_RV.float()
    shifted_RV = logits_RV - logits_RV.amax(dim=-1, keepdim=True)
    target_R = shifted_RV.gather(-1, targets_R[:, None]).squeeze(-1)
    # A token that a model excludes has a logit of -inf, and 0 · inf is NaN.
    shifted_RV.clamp_(min=torch.finfo(torch.float32).min)
    weights_RV = shifted_RV.exp()
    total_R = weights_RV.sum(dim=-1)
    entropy_R = total_R.log() - weights_RV.mul_(shifted_RV).sum(dim=-1) / total_R
    return entropy_R.clamp_(min=0.0), total_R.log() - target_R  # it may round to just below zero


def _scale(config: Any) -> float:
    """Return the factor between head and logits. Granite's config states a divisor, the others a factor."""
    for name in ("logit_scale", "lm_head_multiplier"):
        if getattr(config, name, None) is not None:
            return float(getattr(config, name))
    divisor = getattr(config, "logits_scaling", None)
    return 1.0 if divisor is None else 1.0 / float(divisor)


def _softcap(config: Any) -> float | None:
    """Return the cap of the logits, by the names of Gemma, RecurrentGemma and xLSTM for it; None if there is none."""
    for name in ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap"):
        if getattr(config, name, None) is not None:
            return float(getattr(config, name))
    return None
