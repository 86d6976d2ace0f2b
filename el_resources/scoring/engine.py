"""Entropy, negative log-likelihood and segment attention of token sequences, for any Hugging Face causal LM.

Shapes: B sequences of a batch, N inputs of the longest of them, R wanted rows of a batch, D hidden width, V vocabulary.

Alignment, the same everywhere in this project. A sequence is token ids without BOS; the engine puts BOS in front.

    logits row          -1    0    1   …  t-1
    reads the input    BOS  x_0  x_1   …  x_{t-1}
    predicts           x_0  x_1  x_2   …  x_t
    gives entropy[t]     0    1    2   …  t

So `entropy[t]` belongs to the distribution that predicts token t: it comes from logits row t-1, and the first token is
predicted from BOS. `nll[t]` is -ln of what that distribution gives to token t. Positions count from 0, as sequences do.

Algorithm: each sequence is cut behind its last wanted position; batches of similar lengths, padded on the right, run
through the model's body without a cache or a mask (attention is causal, so padding reaches no wanted row); the head
runs on the wanted rows alone, in bounded chunks. Segment attention is watched in such a forward, one sequence at a time
(attention.py). Frequencies of RoPE that follow the length follow that of the whole sequence (rope.py).
Guarantees: scores are fp32 and come back in the order of the request. The same call gives the same bytes on a CPU; what
else is in a batch moves a score by rounding only (below 1e-4 nats in fp32). All input is checked before the first
forward.
Costs: 2 × parameters operations a token, and 2 × D × V more a wanted row; memory of one batch's activations and one
chunk's logits. On 2 CPU cores in fp32 the reference models run at about 10,000 tokens/s with every position wanted,
14,000 with a few.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from el_resources.scoring.attention import SegmentScores, Span, check_spans, segment_masses, watch_attention
from el_resources.scoring.batching import IntArray, PaddedBatch, ScoreRequest, as_integers, pad_batch, plan_batches
from el_resources.scoring.head import VocabularyHead
from el_resources.scoring.loading import load_causal_lm
from el_resources.scoring.rope import LengthScaledRope, RopeScaling, readable_window

# Padded tokens in a batch, and logits alive at once. What fits its caches suits a CPU; a GPU wants to be filled.
CPU_BATCH_TOKENS, CPU_HEAD_LOGITS = 2048, 2**20
CUDA_BATCH_TOKENS, CUDA_HEAD_LOGITS = 16384, 2**27


@dataclass(frozen=True, kw_only=True)
class TokenScores:
    """Scores of one sequence at its wanted positions, in their order."""

    entropy_nats: NDArray[np.float32]
    nll_nats: NDArray[np.float32]


class ScoringEngine:
    """A causal language model that scores token sequences.

    Attributes:
        window: inputs that the model may read at once, BOS included.
        vocab_size: V; token ids are in [0, V) and entropies in [0, ln V].
        bos_id: what stands before every sequence.
        device: where the model is.
        dtype: of the weights in memory, such as `float32`.
        forwards: sequences put through the model since construction.
        tokens: input tokens put through the model, BOS included, padding excluded.
        seconds: time spent scoring.
    """

    def __init__(
        self,
        model: Any,
        *,
        bos_id: int,
        window: int | None = None,
        max_batch_tokens: int | None = None,
        head_rows: int | None = None,
    ) -> None:
        """Wrap a model that is on its device already.

        Args:
            model: a transformers model for causal language modelling.
            bos_id: what to put before every sequence; end-of-text for a model without BOS.
            window: overrides the `max_position_embeddings` of the model's config.
            max_batch_tokens: padded tokens in a batch; a default for the device if None.
            head_rows: rows of logits alive at once; a default for device and vocabulary if None.
        """
        self._model = model.eval()
        self._head = VocabularyHead.from_model(model)
        self._rope = LengthScaledRope.of(model)
        self.vocab_size = int(model.get_output_embeddings().weight.shape[0])
        self.window = readable_window(model.config, window)
        self.device: torch.device = model.device
        self.dtype = str(model.dtype).removeprefix("torch.")
        self._check_ids(np.array([bos_id]), "bos_id")
        self.bos_id = bos_id
        on_cpu = self.device.type == "cpu"
        head_logits = CPU_HEAD_LOGITS if on_cpu else CUDA_HEAD_LOGITS
        self.max_batch_tokens = _at_least_1(
            "max_batch_tokens", max_batch_tokens, CPU_BATCH_TOKENS if on_cpu else CUDA_BATCH_TOKENS
        )
        self.head_rows = _at_least_1("head_rows", head_rows, max(1, head_logits // self.vocab_size))
        self.forwards = 0
        self.tokens = 0
        self.seconds = 0.0

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        *,
        bos_id: int,
        dtype: str = "auto",
        device: str = "auto",
        trust_remote_code: bool = False,
        rope_scaling: RopeScaling = "none",
        window: int | None = None,
        max_batch_tokens: int | None = None,
        head_rows: int | None = None,
    ) -> Self:
        """Load a model folder's safetensors weights.

        Args:
            folder: a model folder in Hugging Face format.
            dtype: `float32`, `bfloat16`, `float16`, or `auto`: float32 on a CPU, where the others are no faster, and
                the checkpoint's on a GPU.
            device: `cpu`, `cuda`, `cuda:1`, or `auto`: a GPU where there is one.
            trust_remote_code: run code that the folder ships.
            rope_scaling: how a model is read beyond its own window, without training: `dynamic` (NTK) stretches RoPE
                with the length of what is read, and `none` leaves it.
            bos_id, window, max_batch_tokens, head_rows: as in the constructor. With `dynamic` the window must be given.
        """
        model = load_causal_lm(
            folder,
            dtype=dtype,
            device=device,
            trust_remote_code=trust_remote_code,
            rope_scaling=rope_scaling,
            window=window,
        )
        return cls(model, bos_id=bos_id, window=window, max_batch_tokens=max_batch_tokens, head_rows=head_rows)

    def score(
        self,
        sequences: Sequence[IntArray],
        positions: Sequence[IntArray] | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[TokenScores]:
        """Score each sequence at its wanted positions.

        Args:
            sequences: token ids without BOS.
            positions: for each sequence the positions of interest, in any order; None scores all of them. A sequence
                without any is not run.
            on_progress: called after each batch with its input tokens; the total of a call is
                `input_lengths(sequences, positions).sum()`.

        Raises:
            ValueError: a sequence is longer than the window, or holds ids outside the vocabulary, or positions that it
                does not have. Nothing has run then.
        """
        with self._timed():
            requests = self._requests(sequences, positions)
            empty = TokenScores(entropy_nats=np.zeros(0, np.float32), nll_nats=np.zeros(0, np.float32))
            scores = [empty] * len(requests)
            lengths = [request.n_inputs for request in requests]
            kinds = [self._rope.scaled_length(request.whole_length) for request in requests]
            for batch in plan_batches(lengths, self.max_batch_tokens, kinds):
                chosen = [requests[index] for index in batch]
                for index, scored in zip(batch, self._run(chosen), strict=True):
                    scores[index] = scored
                self._count(chosen, on_progress)
            return scores

    def segment_attention(
        self,
        sequences: Sequence[IntArray],
        segments: Sequence[Sequence[Span]],
        responses: Sequence[Span],
        on_progress: Callable[[int], None] | None = None,
    ) -> list[SegmentScores]:
        """Find where the prediction of each sequence's response looks, and the response's NLL; one pass for each.

        Args:
            sequences: token ids without BOS.
            segments: for each sequence the positions [start, end) of its segments: disjoint, before the response, in
                any order, with gaps or without, or none at all.
            responses: for each sequence the positions [start, end) of its response. What follows is not read.
            on_progress: called after each sequence with its input tokens, as many as the end of its response.

        Raises:
            ValueError: as in `score`; or a response is empty or not there, or segments are not as above; or, once the
                first sequence has run, the model's attention cannot be watched (see attention.py).
        """
        with self._timed():
            check_spans(sequences, segments, responses)
            requests = self._requests(sequences, [np.arange(start, end) for start, end in responses])
            scores = []
            for request, spans in zip(requests, segments, strict=True):
                scores.append(self._run_watched(request, spans))
                self._count([request], on_progress)
            return scores

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Count the seconds spent inside."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - started

    def _run_watched(self, request: ScoreRequest, segments: Sequence[Span]) -> SegmentScores:
        """One forward for one sequence, whose last rows are watched."""
        with watch_attention(self._model, n_rows=len(request.positions)) as watcher:
            scores = self._run([request])[0]
        on_segments, on_rest = segment_masses(watcher.mass(), segments)
        return SegmentScores(segment_attention=on_segments, rest_attention=on_rest, nll_nats=scores.nll_nats)

    def _run(self, requests: list[ScoreRequest]) -> list[TokenScores]:
        """One forward for a batch of requests, whose sequences share their rotary frequencies."""
        with self._rope.reading(max(request.whole_length for request in requests)):
            entropy_R, nll_R = self._forward(pad_batch(requests, self.bos_id))
        ends = np.cumsum([len(request.positions) for request in requests])[:-1]
        return [
            TokenScores(entropy_nats=entropy, nll_nats=nll)
            for entropy, nll in zip(np.split(entropy_R, ends), np.split(nll_R, ends), strict=True)
        ]

    def _count(self, requests: list[ScoreRequest], on_progress: Callable[[int], None] | None) -> None:
        """Add what has run to the counters, and report it."""
        n_tokens = sum(request.n_inputs for request in requests)
        self.forwards += len(requests)
        self.tokens += n_tokens
        if on_progress is not None:
            on_progress(n_tokens)

    @torch.inference_mode()
    def _forward(self, batch: PaddedBatch) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Entropy and NLL of a batch's wanted rows."""
        inputs_BN = torch.from_numpy(batch.inputs_BN).to(self.device)
        rows_R = torch.from_numpy(batch.rows_R).to(self.device)
        targets_R = torch.from_numpy(batch.targets_R).to(self.device)
        hidden_BND = self._model.base_model(input_ids=inputs_BN, use_cache=False).last_hidden_state
        hidden_RD = hidden_BND.flatten(0, 1)[rows_R]
        entropy_R, nll_R = self._head.scores(hidden_RD, targets_R, self.head_rows)
        return entropy_R.cpu().numpy(), nll_R.cpu().numpy()

    def _requests(self, sequences: Sequence[IntArray], positions: Sequence[IntArray] | None) -> list[ScoreRequest]:
        """Checked requests, one for each sequence."""
        if positions is None:
            positions = [np.arange(len(sequence)) for sequence in sequences]
        if len(positions) != len(sequences):
            raise ValueError(f"{len(positions)} lists of positions for {len(sequences)} sequences; give one for each")
        pairs = enumerate(zip(sequences, positions, strict=True))
        return [self._request(as_integers(ids), as_integers(wanted), index) for index, (ids, wanted) in pairs]

    def _request(self, token_ids: IntArray, positions: IntArray, index: int) -> ScoreRequest:
        """One request, once sequence and positions are known to be valid."""
        if 1 + len(token_ids) > self.window:
            raise ValueError(
                f"sequence {index} has {len(token_ids)} tokens, with BOS {1 + len(token_ids)}, and the model's window "
                f"is {self.window}; cut the sequence or use a model with a longer window"
            )
        outside = positions[(positions < 0) | (positions >= len(token_ids))]
        if len(outside):
            raise ValueError(
                f"position {outside[0]} of sequence {index} does not exist: the sequence has {len(token_ids)} tokens; "
                f"give positions in [0, {len(token_ids)})"
            )
        self._check_ids(token_ids, f"sequence {index}")
        return ScoreRequest(token_ids=token_ids, positions=positions)

    def _check_ids(self, token_ids: IntArray, name: str) -> None:
        """Refuse token ids of another vocabulary."""
        outside = token_ids[(token_ids < 0) | (token_ids >= self.vocab_size)]
        if len(outside):
            raise ValueError(
                f"{name}: token id {outside[0]} is outside the model's vocabulary of {self.vocab_size}; "
                "tokenize the text with this model's tokenizer"
            )


def _at_least_1(name: str, value: int | None, default: int) -> int:
    """A size that was given, or its default."""
    if value is not None and value < 1:
        raise ValueError(f"{name} is {value}; give at least 1, or None for the default")
    return default if value is None else value
