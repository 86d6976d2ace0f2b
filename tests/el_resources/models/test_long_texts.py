"""Texts beyond an encoder's window, with an encoder whose vectors can be worked out by hand."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from el_resources.models.long_texts import encode_whole
from el_resources.models.text_encoder import OnProgress, Vectors, open_encoder
from tests.conftest import Workspace

TEXTS = ["a a", "a a a a b b b b", "", "b", "a a a a a a b"]


class LetterCounts:
    """Reads the first four words: the vector is the direction of (number of a, number of b). A word is a token."""

    name = "letters"
    dimension = 2
    window_tokens: int | None = 4

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    def encode(self, texts: Sequence[str], on_progress: OnProgress | None = None) -> Vectors:
        words = [text.split()[: self.window_tokens] for text in texts]
        counts = np.array([[w.count("a"), w.count("b")] for w in words], dtype=np.float32).reshape(-1, 2)
        if on_progress:
            for _ in texts:
                on_progress(1)
        return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-9)


def test_all_of_a_long_text_counts() -> None:
    done: list[int] = []
    vectors, beyond = encode_whole(LetterCounts(), TEXTS, "split", done.append)

    # "a a a a b b b b" is halved into four a and four b; by its head alone it would be (1, 0).
    half = np.sqrt(0.5)
    np.testing.assert_allclose(vectors[:4], [[1, 0], [half, half], [0, 0], [0, 1]], atol=1e-6)
    # "a a a" and "a a a b": 3 parts of (1, 0) to 4 parts of (3, 1) / sqrt(10).
    mixed = np.array([3 + 4 * 3 / np.sqrt(10), 4 / np.sqrt(10)])
    np.testing.assert_allclose(vectors[4], mixed / np.linalg.norm(mixed), atol=1e-6)
    assert sum(done) == len(TEXTS)
    # 2 of 5 are longer; 18 tokens, of which 4 and 3 are beyond.
    assert (beyond.n_longer, beyond.n_tokens, beyond.n_tokens_beyond) == (2, 18, 7)
    assert beyond.facts() == {"encoder_window": 4, "chunks_beyond_window": 2, "share_beyond_window": 0.3889}


def test_too_much_beyond_is_refused_with_its_numbers_and_remedy() -> None:
    with pytest.raises(ValueError, match=r"2 of 5 texts .* 4 tokens that 'letters' reads; 38\.9% .* EL_CHUNK_TOKENS"):
        encode_whole(LetterCounts(), TEXTS, "refuse")

    vectors, beyond = encode_whole(LetterCounts(), ["a a a a"] * 200 + ["a a a a b"], "refuse")
    assert (beyond.n_longer, round(beyond.share, 4)) == (1, 0.0012)
    assert vectors[-1].tolist() == [1, 0], "below 1 % the head stands for the text"


@pytest.mark.parametrize("texts", [[], [""], ["a", "b a"]])
def test_texts_that_fit_have_the_encoders_own_vectors(texts: list[str]) -> None:
    vectors, beyond = encode_whole(LetterCounts(), texts, "split")

    assert np.array_equal(vectors, LetterCounts().encode(texts))
    assert beyond.n_longer == 0


def test_the_embedded_encoder_reads_any_length() -> None:
    encoder = open_encoder("reference-idf")

    vectors, beyond = encode_whole(encoder, ["one text " * 5000], "refuse")

    assert beyond.facts() == {"encoder_window": None, "chunks_beyond_window": 0, "share_beyond_window": 0.0}
    assert np.array_equal(vectors, encoder.encode(["one text " * 5000]))


def tiny_bert(folder: Path, window: int) -> str:
    """A random BERT over letters with mean pooling, as sentence-transformers stores it."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh", *(f"##{sign}" for sign in "abcdefgh")]
    source = folder / "bert"
    source.mkdir(parents=True)
    (source / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab_file=str(source / "vocab.txt")).save_pretrained(source)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64,
    )  # fmt: skip
    BertModel(config).save_pretrained(source)
    bert = modules.Transformer(str(source), max_seq_length=window)
    model = SentenceTransformer(modules=[bert, modules.Pooling(16)], device="cpu")
    model.save(str(folder / "encoder"))
    return f"sentence-transformers:{folder / 'encoder'}"


def test_a_sentence_transformers_model_says_its_window_and_reads_all_of_a_long_text(tmp_path: Path) -> None:
    encoder = open_encoder(tiny_bert(tmp_path, window=10), device="cpu")
    head, tail = "a b c d e f g h", "h g f e d c b a a b"

    assert encoder.window_tokens == 8, "of 10 positions [CLS] and [SEP] take two"
    assert encoder.count_tokens([head, f"{head} {tail}", ""]) == [8, 18, 0]
    by_head = encoder.encode([head, f"{head} {tail}"])
    np.testing.assert_allclose(by_head[0], by_head[1], atol=1e-5)
    vectors, beyond = encode_whole(encoder, [head, f"{head} {tail}"], "split")
    np.testing.assert_allclose(vectors[0], by_head[0], atol=1e-5)
    assert vectors[1] @ by_head[0] < 0.999
    assert (beyond.n_longer, beyond.n_tokens_beyond) == (1, 10)


def test_a_long_chunk_is_counted_in_its_stamp_and_refused_on_demand(
    new_workspace: Callable[..., Workspace], tmp_path: Path
) -> None:
    """A run as a user starts it: chunks of 128 scorer tokens and an encoder that reads 8 of its own."""
    encoder = tiny_bert(tmp_path, window=10)
    workspace = new_workspace(encoder=encoder)
    workspace.write_shard("a.jsonl", [{"id": "x", "text": "a b c d e f g h " * 4}, {"id": "y", "text": "a b"}])
    workspace.register()
    workspace.materialize("documents", "context_chunks")
    facts = workspace.tables.require_stamp("context_chunks", "a.jsonl").facts
    # 32 letters in one chunk and 2 in another; 24 of 34 are beyond.
    assert (facts["encoder_window"], facts["chunks_beyond_window"], facts["share_beyond_window"]) == (8, 1, 0.7059)
    with pytest.raises(ValueError, match=r"1 of 2 texts .*; 70\.6% .* lower EL_CHUNK_TOKENS, or set EL_LONG_CHUNKS"):
        workspace.materialize("context_chunks", long_chunks="refuse")
