"""Entropy, negative log-likelihood and segment attention of token sequences, for any Hugging Face causal LM.

Shapes: B sequences of a batch, N inputs of the longest of them, R wanted rows of a batch, D hidden width, V vocabulary.

Alignment, the same everywhere in this project. A sequence is token ids without BOS; the engine puts BOS in front.

    logits row          -1    0    1   …  t-1
    reads the input    BOS  x_0  x_1   …  x_{t-1}
    predicts           x_0  x_1  x_2   …  x_t
    gives entropy[t]     0    1    2   …  t

So `entropy[t]` belongs to the distribution that predicts token t: it comes from logits row t-1, and the first token is
predicted from BOS. `nll[t]` is -ln of the probability of token t in that distribution. Positions count from 0.

Algorithm: each sequence is cut after its last wanted position. Batches of whole sequences, packed without padding, run
through the model's body without a cache or a mask (batching.py, attention.py); models for which probe.py finds that
packing is not exact get padded batches. The head runs on the wanted rows alone, in bounded chunks. While a GPU works on
one batch, the next is prepared and sent, and the one before is read back. A batch that does not fit a GPU's memory is
halved and run again, and the smaller size is kept. Segment attention is watched in such a forward, one sequence at a
time (segment_mass.py). If RoPE's frequencies depend on the length, the whole sequence's length counts (rope.py).
Guarantees: scores are fp32 and in the order of the request. The same call gives the same bytes on one device, unless
memory ran out in between; other sequences in a batch change a score by rounding only (below 1e-4 nats in fp32). All
input is checked before the first forward.
Costs: 2 × parameters operations a token, and 2 × D × V more for a wanted row; memory for the activations of one batch
and the logits of one chunk.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from el_resources.scoring.batching import Family, IntArray, ScoreRequest
from el_resources.scoring.fitness import refuse_unfit
from el_resources.scoring.head import VocabularyHead, rows_at_once
from el_resources.scoring.loading import load_causal_lm
from el_resources.scoring.memory import half_of, tokens_that_fit
from el_resources.scoring.probe import choose_reading
from el_resources.scoring.readers import PackedReader
from el_resources.scoring.requests import check_ids, checked_requests
from el_resources.scoring.results import OnItsWay, TokenScores, split_scores
from el_resources.scoring.rope import LengthScaledRope, RopeScaling, readable_window
from el_resources.scoring.segment_mass import (
    AttentionWatcher,
    Response,
    SegmentScores,
    Span,
    check_spans,
    pieces_of,
    segment_scores,
)

# Inputs of a batch: as many as fit the caches of a CPU, and as many as fill a GPU.
CPU_BATCH_TOKENS, CUDA_BATCH_TOKENS = 2048, 32_768
# From this number of inputs in a call, compiled layers save more than the ten seconds of their compilation.
TOKENS_WORTH_COMPILING = 2_000_000


class ScoringEngine:
    """A causal language model that scores token sequences.

    Attributes:
        window: inputs that the model may read at once, BOS included.
        vocab_size: V; token ids are in [0, V) and entropies in [0, ln V].
        bos_id: token put before every sequence.
        device: the model's device.
        dtype: dtype of the weights in memory, such as `float32`.
        why_not_watched: reason for which `segment_attention` refuses this model; empty if it does not.
        max_batch_tokens: inputs of a batch; less after a GPU's memory ran out.
        forwards: sequences put through the model since construction.
        tokens: input tokens put through the model, with BOS and without padding; a shared prefix counts once.
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
        compiled: bool | None = None,
    ) -> None:
        """Wrap a model that is already on its device.

        Args:
            model: a transformers model for causal language modelling.
            bos_id: token put before every sequence; end-of-text for a model without BOS.
            window: replaces the `max_position_embeddings` of the model's config.
            max_batch_tokens: inputs of a batch; None for a size that suits a CPU's caches or a GPU's free memory.
            head_rows: rows of logits in memory at once; None for a default for device and vocabulary.
            compiled: run the model's layers compiled; None does so on a GPU from the first call that is large enough.
        """
        refuse_unfit(model)
        self._model = model.eval()
        self._rope = LengthScaledRope.of(model)
        self.vocab_size = int(model.get_output_embeddings().weight.shape[0])
        self.window = readable_window(model.config, window)
        self.device: torch.device = model.device
        self.dtype = str(model.dtype).removeprefix("torch.")
        check_ids(np.array([bos_id]), "bos_id", self.vocab_size)
        self.bos_id = bos_id
        with _current(self.device), self._rope.reading(1):
            reading = choose_reading(model, bos_id, self.window)
            self._head = VocabularyHead.from_model(model)
        self._reader, self.why_not_watched = reading.reader, reading.why_not_watched
        self._compiled = compiled
        on_cpu = self.device.type == "cpu"
        self.head_rows = _at_least_1("head_rows", head_rows, rows_at_once(self.vocab_size, on_cpu=on_cpu))
        self._max_batch_tokens = _at_least_1("max_batch_tokens", max_batch_tokens, CPU_BATCH_TOKENS if on_cpu else 0)
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
        compiled: bool | None = None,
    ) -> Self:
        """Load a model folder's safetensors weights.

        Args:
            folder: a model folder in Hugging Face format.
            dtype: `float32`, `bfloat16`, `float16`, or `auto`: float32 on a CPU, on which the others are no faster, and
                the checkpoint's on a GPU.
            device: `cpu`, `cuda`, `cuda:1`, or `auto`: a GPU if there is one.
            trust_remote_code: run code that the folder ships.
            rope_scaling: extension of the window without training: `dynamic` (NTK) scales RoPE with the length of each
                sequence, `none` does not.
            bos_id, window, max_batch_tokens, head_rows, compiled: as in the constructor. With `dynamic` the window
                must be given.
        """
        model = load_causal_lm(
            folder,
            dtype=dtype,
            device=device,
            trust_remote_code=trust_remote_code,
            rope_scaling=rope_scaling,
            window=window,
        )
        sizes = {"max_batch_tokens": max_batch_tokens, "head_rows": head_rows}
        try:
            return cls(model, bos_id=bos_id, window=window, compiled=compiled, **sizes)
        except ValueError as error:
            raise ValueError(f"the model in {folder}: {error}") from error

    @property
    def max_batch_tokens(self) -> int:
        if not self._max_batch_tokens:
            with torch.inference_mode(), _current(self.device):
                self._max_batch_tokens = tokens_that_fit(self.device, self._read_dummies, at_most=CUDA_BATCH_TOKENS)
        return self._max_batch_tokens

    def score(
        self,
        sequences: Sequence[IntArray],
        positions: Sequence[IntArray] | None = None,
        on_progress: Callable[[int], None] | None = None,
        n_common: Sequence[int] | None = None,
    ) -> list[TokenScores]:
        """Score each sequence at its wanted positions.

        Args:
            sequences: token ids without BOS.
            positions: the wanted positions of each sequence, in any order; None scores all of them. A sequence without
                a wanted position is not run.
            on_progress: called after each batch with the number of its inputs, counted without prefix sharing; the
                total of a call is `input_lengths(sequences, positions).sum()`.
            n_common: for each sequence the number of its first tokens that others may share. Sequences of a batch that
                share them, and want no position among them, read them once.

        Raises:
            ValueError: a sequence is longer than the window, has an id outside the vocabulary, or lacks a wanted
                position; nothing has run then. Or a single sequence does not fit a GPU's memory.

        Example:
            >>> from el_resources.scoring.texts import TextScorer
            >>> engine = TextScorer.open().engine  # the embedded model
            >>> whole, last = engine.score([np.array([5, 6, 7]), np.array([5, 6])], [np.arange(3), np.array([1])])
            >>> whole.entropy_nats.shape, last.entropy_nats.shape
            ((3,), (1,))
        """
        with self._timed():
            requests = checked_requests(sequences, positions, n_common, window=self.window, vocab_size=self.vocab_size)
            empty = TokenScores(entropy_nats=np.zeros(0, np.float32), nll_nats=np.zeros(0, np.float32))
            scores = [empty] * len(requests)
            self._compile_if_worth(sum(request.n_inputs for request in requests))
            for batch, found in self._batches(requests):
                for index, scored in zip(_members(batch), found, strict=True):
                    scores[index] = scored
                self._count(requests, batch, on_progress)
            return scores

    def segment_attention(
        self,
        sequences: Sequence[IntArray],
        segments: Sequence[Sequence[Span]],
        responses: Sequence[Response],
        on_progress: Callable[[int], None] | None = None,
    ) -> list[SegmentScores]:
        """Return the attention mass of each response on its sequence's segments, and its NLL, in one pass for each.

        Args:
            sequences: token ids without BOS.
            segments: for each sequence the positions [start, end) of its segments: disjoint and before the response, in
                any order, with or without gaps; there may be none.
            responses: for each sequence the positions [start, end) of its response, or of the pieces of it in order.
                Tokens after the response are not read.
            on_progress: called after each sequence with the number of its inputs up to the end of its response.

        Raises:
            ValueError: as in `score`; or a response is empty or missing, or segments are not as above, or the model
                cannot be watched (see `why_not_watched`). Nothing has run then.
        """
        with self._timed():
            if self.why_not_watched:
                name = type(self._model).__name__
                raise ValueError(
                    f"the attention of {name} cannot be watched: {self.why_not_watched}; use another model"
                )
            pieces = [pieces_of(response) for response in responses]
            check_spans(sequences, segments, pieces)
            wanted = [np.concatenate([np.arange(start, end) for start, end in spans]) for spans in pieces]
            requests = checked_requests(sequences, wanted, window=self.window, vocab_size=self.vocab_size)
            scores = []
            for request, spans, rows in zip(requests, segments, pieces, strict=True):
                scores.append(self._run_watched(request, spans, rows))
                self._count([request], [_alone(request)], on_progress)
            return scores

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Run on the model's device, and add the time inside the context to `seconds`."""
        with _current(self.device):
            started = time.perf_counter()
            try:
                yield
            finally:
                self.seconds += time.perf_counter() - started

    def _run_watched(self, request: ScoreRequest, segments: Sequence[Span], rows: Sequence[Span]) -> SegmentScores:
        """Run one forward for one sequence and watch some of its rows; row t predicts token t."""
        assert isinstance(self._reader, PackedReader)
        watcher = AttentionWatcher(rows=rows)
        with torch.inference_mode(), self._rope.reading(request.whole_length):
            hidden_RD, targets_R = self._reader.read([request], [_alone(request)], watcher)
            _, nll_R = self._head.scores(hidden_RD, targets_R, self.head_rows)
        n_layers = self._model.config.get_text_config().num_hidden_layers
        assert len(watcher.layers_N) == n_layers, "a model that is read packed attends in every layer"
        return segment_scores(watcher, segments, nll_R.cpu().numpy())

    def _batches(self, requests: Sequence[ScoreRequest]) -> Iterator[tuple[list[Family], list[TokenScores]]]:
        """Yield every batch with the scores of its members; a GPU works on the next batch while one is read back."""
        kinds = [self._rope.scaled_length(request.whole_length) for request in requests]
        todo = deque(self._reader.plan(requests, kinds, self.max_batch_tokens, range(len(requests))))
        running: deque[tuple[list[Family], OnItsWay]] = deque()
        while todo or running:
            if todo:
                batch = todo.popleft()
                try:
                    running.append((batch, self._start(requests, batch)))
                except torch.OutOfMemoryError:
                    left = [index for one in (batch, *todo) for index in _members(one)]
                    self._max_batch_tokens = half_of(sum(one.n_inputs for one in batch), len(list(_members(batch))))
                    torch.cuda.empty_cache()
                    todo = deque(self._reader.plan(requests, kinds, self._max_batch_tokens, left))
            if running and (len(running) > 1 or not todo):
                batch, found = running.popleft()
                counts = [len(requests[index].positions) for index in _members(batch)]
                yield batch, split_scores(found.array(), counts)

    @torch.inference_mode()
    def _start(self, requests: Sequence[ScoreRequest], batch: Sequence[Family]) -> OnItsWay:
        """Start one forward for a batch of one length class; return entropies and NLLs, 2 × R."""
        with self._rope.reading(max(requests[index].whole_length for index in _members(batch))):
            hidden_RD, targets_R = self._reader.read(requests, batch)
            return OnItsWay(torch.stack(self._head.scores(hidden_RD, targets_R, self.head_rows)))

    def _count(
        self,
        requests: Sequence[ScoreRequest],
        batch: Sequence[Family],
        on_progress: Callable[[int], None] | None,
    ) -> None:
        """Add a batch to the counters, and report progress."""
        members = list(_members(batch))
        self.forwards += len(members)
        self.tokens += sum(family.n_inputs for family in batch)
        if on_progress is not None:
            on_progress(sum(requests[index].n_inputs for index in members))

    def _compile_if_worth(self, n_inputs: int) -> None:
        """Compile the layers if the caller asked for it, or if the call is large enough."""
        worth = self.device.type == "cuda" and n_inputs >= TOKENS_WORTH_COMPILING
        if isinstance(self._reader, PackedReader) and (worth if self._compiled is None else self._compiled):
            self._reader.compile()

    def _read_dummies(self, n_tokens: int) -> None:
        """Put `n_tokens` inputs through the model."""
        length = min(n_tokens, self.window)
        request = ScoreRequest(token_ids=np.full(length, self.bos_id), positions=np.array([length - 1]))
        requests = [request] * -(-n_tokens // length)
        self._start(requests, [_alone(request, index) for index in range(len(requests))])


def _at_least_1(name: str, value: int | None, default: int) -> int:
    """Return the given size, or its default if it is None."""
    if value is not None and value < 1:
        raise ValueError(f"{name} is {value}; give at least 1, or None for the default")
    return default if value is None else value


def _current(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which the thread's kernels and events use this device; a CPU needs none."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _members(batch: Sequence[Family]) -> Iterator[int]:
    """Return the requests of a batch, in the order of its scores."""
    return (index for family in batch for index in family.members)


def _alone(request: ScoreRequest, index: int = 0) -> Family:
    return Family(members=(index,), n_shared=0, n_inputs=request.n_inputs)
