import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import bfloat16, float16, float32, tensor

from el_resources.models import text_encoder
from el_resources.models.model_files import REFERENCE_FOLDER
from el_resources.models.text_encoder import encoder_fingerprint, open_encoder, read_tensor, token_signs, unit_rows
from el_resources.reference_models.make_token_idf import inverse_document_frequency

ENCODER = open_encoder("reference-idf")
TEXTS = ["Open a file for reading.", "", "x" * 10_000, " ", "漢字 and 😀", "Open a file for reading."]


def test_vectors_have_length_one_and_no_text_gives_the_zero_vector() -> None:
    vectors = ENCODER.encode(TEXTS)

    assert vectors.dtype == np.float32
    assert vectors.shape == (6, ENCODER.dimension)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 0, 1, 1, 1, 1], atol=1e-6)


@settings(deadline=None, max_examples=25)
@given(texts=st.lists(st.text(max_size=40), max_size=6), copies=st.sampled_from([1, 130]))
def test_a_vector_depends_on_its_text_alone_to_the_last_bit(texts: list[str], copies: int) -> None:
    # 130 copies of up to 6 texts cross the block's border.
    together = ENCODER.encode(texts * copies)

    alone = [ENCODER.encode([text])[0] for text in texts]

    assert together.shape == (len(texts) * copies, ENCODER.dimension)
    assert all(np.array_equal(row, alone[i % len(texts)]) for i, row in enumerate(together))


def test_passages_on_one_subject_are_nearer_than_passages_on_another() -> None:
    queries = ["how a socket accepts connections", "sort a list in ascending order"]
    passages = ["Bind the socket to an address and listen for a connection.", "sorted() returns the list ordered."]

    similarity = ENCODER.encode(queries) @ ENCODER.encode(passages).T

    assert similarity.argmax(axis=1).tolist() == [0, 1]


def test_signs_are_fixed_and_nearly_orthogonal() -> None:
    signs = token_signs(300)

    assert signs.shape == (300, 512)
    assert set(np.unique(signs)) == {-1.0, 1.0}
    # First byte of BLAKE2b-512 of "0" is 0xe9 = 1110 1001.
    assert signs[0, :8].tolist() == [1, 1, 1, -1, 1, -1, -1, 1]
    cosines = signs @ signs.T / 512 - np.eye(300)
    assert np.abs(cosines).max() < 6 / np.sqrt(512)


def test_progress_counts_every_text_once() -> None:
    done: list[int] = []

    ENCODER.encode(["a"] * 600, on_progress=done.append)

    assert sum(done) == 600
    assert len(done) > 1


def test_the_embedded_encoder_and_fingerprints_need_no_torch() -> None:
    code = (
        "import sys; from el_resources.models.text_encoder import encoder_fingerprint, open_encoder;"
        "open_encoder('reference-idf').encode(['a']); encoder_fingerprint('reference-idf');"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_bfloat16_and_float32_are_read_as_torch_reads_them(tmp_path: Path) -> None:
    values = [[0.0, -0.0, 1.0], [3.140625, -65280.0, 1e-38]]
    tensors = {"half": tensor(values, dtype=bfloat16), "full": tensor(values, dtype=float32)}
    save_file({**tensors, "other": tensor(values[0], dtype=float16)}, str(tmp_path / "t.safetensors"))

    for name, expected in tensors.items():
        read = read_tensor(tmp_path / "t.safetensors", name)
        assert read.dtype == np.float32
        assert np.array_equal(read, expected.float().numpy())
    with pytest.raises(ValueError, match=r"'other' of .* is F16"):
        read_tensor(tmp_path / "t.safetensors", "other")


def test_the_fingerprint_follows_every_file_that_vectors_depend_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fingerprint = encoder_fingerprint("reference-idf")
    assert fingerprint == encoder_fingerprint("reference-idf")
    for name in ("_EMBEDDINGS", "_TOKENIZER", "_TOKEN_IDF"):
        changed = tmp_path / getattr(text_encoder, name).name
        changed.write_bytes(getattr(text_encoder, name).read_bytes() + b" ")
        with monkeypatch.context() as patch:
            patch.setattr(text_encoder, name, changed)
            assert encoder_fingerprint("reference-idf") != fingerprint


@pytest.mark.parametrize("name", ["", "reference", "minilm", "sentence-transformers:", "reference-idf "])
def test_an_unknown_encoder_is_refused_with_the_known_forms(name: str) -> None:
    for act in (open_encoder, encoder_fingerprint):
        with pytest.raises(ValueError, match=r"'reference-idf' or 'sentence-transformers:NAME-OR-FOLDER'"):
            act(name)


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)

    with pytest.raises(ImportError, match=r"pip install 'entropylong\[encoders\]'"):
        open_encoder(f"sentence-transformers:{tmp_path}")


def test_a_file_that_was_not_fetched_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n")
    for opened in (open_encoder, encoder_fingerprint):
        with pytest.raises(ValueError, match=r"model\.safetensors is a Git LFS pointer; .*`git lfs pull`"):
            opened(f"sentence-transformers:{tmp_path}")


class LengthModel:
    """Stands for a sentence-transformers model: the vector of a text is (its length, 1), so that order is visible."""

    def __init__(self, folder: str, device: str | None, trust_remote_code: bool) -> None:
        self.asked = (folder, device, trust_remote_code)
        self.max_seq_length = None

    def get_embedding_dimension(self) -> int:
        return 2

    def encode(self, texts: list[str], show_progress_bar: bool) -> list[list[float]]:
        assert all(text.strip() for text in texts)
        return [[len(text), 1.0] for text in texts]


def test_a_sentence_transformers_folder_keeps_order_and_gives_blank_texts_zero(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", SimpleNamespace(SentenceTransformer=LengthModel))
    encoder = open_encoder(f"sentence-transformers:{tmp_path}", device="auto")
    texts = ["a" * (i % 5) for i in range(600)]
    done: list[int] = []

    vectors = encoder.encode(texts, on_progress=done.append)

    expected = unit_rows(np.array([[len(t), 1.0] if t else [0, 0] for t in texts], dtype=np.float32))
    assert np.array_equal(vectors, expected)
    assert (encoder.dimension, vectors.dtype, sum(done)) == (2, np.float32, 600)
    assert encoder._model.asked == (str(tmp_path), None, False)  # type: ignore[attr-defined]


class UnpaddedModel(LengthModel):
    """A model whose tokenizer cannot pad, which shows when texts of other lengths are encoded together."""

    def encode(self, texts: list[str], show_progress_bar: bool) -> list[list[float]]:
        raise ValueError("Asking to pad but the tokenizer does not have a padding token.")


def test_a_model_that_cannot_encode_is_refused_when_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", SimpleNamespace(SentenceTransformer=UnpaddedModel))
    with pytest.raises(ValueError, match=r"cannot open .* \(ValueError: Asking to pad .*; fetch the model again, or"):
        open_encoder(f"sentence-transformers:{tmp_path}")


def test_the_fingerprint_of_a_folder_follows_its_files(tmp_path: Path) -> None:
    name = f"sentence-transformers:{tmp_path}"
    (tmp_path / "weights").write_text("1")
    first = encoder_fingerprint(name)
    (tmp_path / "weights").write_text("2")

    assert encoder_fingerprint(name) != first
    with pytest.raises(ValueError, match="has no revision 'main'"):
        encoder_fingerprint(name, "main")


def test_idf_counts_windows_and_not_occurrences() -> None:
    windows = [np.array([1, 1, 2], dtype=np.int32), np.array([1, 3, 3], dtype=np.int32)]

    idf = inverse_document_frequency(windows, vocab_size=4)

    # ln(3 / (n + 1)) for n = 0, 2, 1, 1 of 2 windows
    np.testing.assert_allclose(idf, np.log([3, 1, 1.5, 1.5]), rtol=1e-6)


def test_the_shipped_idf_table_fits_the_vocabulary_and_ranks_common_below_rare() -> None:
    idf = read_tensor(REFERENCE_FOLDER / "token_idf.safetensors", "idf")
    ids = {text: ENCODER._tokenizer.encode(text)[0] for text in (" the", " socket")}  # type: ignore[attr-defined]

    assert idf.shape == (8192,)
    assert np.isfinite(idf).all()
    assert 0 <= idf.min() <= idf[ids[" the"]] < idf[ids[" socket"]]
