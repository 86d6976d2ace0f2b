import ast
import shutil
import sys
from pathlib import Path

import pytest

from el_resources.sources.contracts import CorpusSource, CorruptShardError, SourceDocument
from el_resources.sources.opening import open_corpus
from el_resources.sources.python_docs import PythonDocs, function_passages, module_text, stdlib_modules

LONG = "Words that fill the docstring. " * 8


def all_documents(corpus: CorpusSource) -> dict[str | None, SourceDocument]:
    return {document.source_id: document for shard in corpus.shards() for document in corpus.documents(shard)}


def fingerprints(corpus: CorpusSource) -> dict[str, str]:
    return {shard: corpus.shard_fingerprint(shard) for shard in corpus.shards()}


def write(path: Path, source: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(source if isinstance(source, bytes) else source.encode())


def module(docstring: str) -> str:
    return f'"""{docstring}"""\n'


SHAPES = '''"""Shapes in a plane.

They are never empty.
"""
import os

if os.name == "nt":
    def hidden(): pass
else:
    async def fetch(url: str, *, retries=3) -> bytes:
        """Fetch a shape."""
        def inner():
            """Not part of the interface."""

class Shape(Base, metaclass=Meta):
    """A shape.

    It has:
        - an area
    """

    def __init__(self, x): ...

    @property
    def area(self) -> float:
        """Area in square metres."""

    @abc.abstractmethod
    @classmethod
    def unit(cls, *sizes: int, **options: str):
        """The unit shape."""

    class Corner:
        """A corner."""

class Undocumented:
    def drop(self): ...
'''
SHAPES_AS_TEXT = """\
shapes
======

Shapes in a plane.

They are never empty.

async fetch(url: str, *, retries=3) -> bytes

    Fetch a shape.

class Shape(Base, metaclass=Meta)

    A shape.

    It has:
        - an area

    property area(self) -> float

        Area in square metres.

    abstractmethod classmethod unit(cls, *sizes: int, **options: str)

        The unit shape.

    class Corner

        A corner.
"""


def test_a_module_reads_as_signatures_and_docstrings(tmp_path: Path) -> None:
    write(tmp_path / "shapes.py", SHAPES)
    document = all_documents(PythonDocs(stdlib=tmp_path))["shapes"]
    assert document.license == "PSF-2.0"
    assert document.set_aside_reason is None
    assert document.text == SHAPES_AS_TEXT


def test_sources_are_read_and_never_imported(tmp_path: Path) -> None:
    trace = tmp_path / "imported"
    write(tmp_path / "lib" / "planted.py", module(LONG) + f"open({str(trace)!r}, 'w').close()\nraise SystemExit(1)\n")
    assert list(all_documents(PythonDocs(stdlib=tmp_path / "lib"))) == ["planted"]
    assert not trace.exists()
    assert "planted" not in sys.modules


def test_tests_and_installed_packages_are_not_documents(tmp_path: Path) -> None:
    for name in ("test/a.py", "json/tests/b.py", "idlelib/idle_test/c.py", "site-packages/d.py", "dist-packages/e.py"):
        write(tmp_path / name, module(LONG))
    for name in ("json/__init__.py", "json/decoder.py", "_private.py", "testing.py"):
        write(tmp_path / name, module(LONG))
    assert sorted(name for name, _ in stdlib_modules(tmp_path)) == ["_private", "json", "json.decoder", "testing"]
    assert len(all_documents(PythonDocs(stdlib=tmp_path))) == 4


def test_short_documents_are_skipped(tmp_path: Path) -> None:
    write(tmp_path / "short.py", module("Brief."))
    write(tmp_path / "long.py", module(LONG))
    assert list(all_documents(PythonDocs(stdlib=tmp_path))) == ["long"]


def test_a_coding_declaration_is_honoured(tmp_path: Path) -> None:
    write(tmp_path / "latin.py", b"# -*- coding: latin-1 -*-\n" + module("Grüße. " + LONG).encode("latin-1"))
    assert "Grüße." in all_documents(PythonDocs(stdlib=tmp_path))["latin"].text


def test_a_docstring_that_utf8_cannot_hold_keeps_its_escape(tmp_path: Path) -> None:
    write(tmp_path / "codec.py", module(r"Maps to \udc80. " + LONG))
    text = all_documents(PythonDocs(stdlib=tmp_path))["codec"].text
    assert r"Maps to \udc80." in text
    assert text.encode("utf-8").decode("utf-8") == text


def test_a_broken_module_is_named(tmp_path: Path) -> None:
    write(tmp_path / "broken.py", "def (:\n")
    with pytest.raises(CorruptShardError, match=r"broken\.py.*invalid syntax"):
        all_documents(PythonDocs(stdlib=tmp_path))


def test_an_interpreter_without_sources_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="name another corpus"):
        PythonDocs(stdlib=tmp_path).documents("python-docs-0")


def test_an_unknown_shard_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no shard '\.\./x'.*python-docs-0, python-docs-1"):
        open_corpus("python-docs:").documents("../x")


def test_fingerprints_follow_from_the_sources_alone(tmp_path: Path) -> None:
    for number in range(20):
        write(tmp_path / "lib" / f"m{number}.py", module(LONG))
    before = fingerprints(PythonDocs(stdlib=tmp_path / "lib"))
    shutil.copytree(tmp_path / "lib", tmp_path / "copy", copy_function=shutil.copyfile)
    copy = PythonDocs(stdlib=tmp_path / "copy")
    assert fingerprints(copy) == before

    write(tmp_path / "copy" / "m7.py", module(LONG + "And more."))
    changed = [shard for shard, fingerprint in fingerprints(copy).items() if fingerprint != before[shard]]
    assert changed == [shard for shard in copy.shards() if "m7" in {d.source_id for d in copy.documents(shard)}]


def test_a_new_module_moves_no_other(tmp_path: Path) -> None:
    for number in range(20):
        write(tmp_path / f"m{number}.py", module(LONG))
    corpus = PythonDocs(stdlib=tmp_path)
    before = {shard: {d.source_id for d in corpus.documents(shard)} for shard in corpus.shards()}
    write(tmp_path / "a_new_one.py", module(LONG))
    after = {shard: {d.source_id for d in corpus.documents(shard)} - {"a_new_one"} for shard in corpus.shards()}
    assert after == before


def test_the_standard_library_makes_four_shards_of_similar_size() -> None:
    corpus = open_corpus("python-docs:")
    assert corpus.shards() == ["python-docs-0", "python-docs-1", "python-docs-2", "python-docs-3"]
    shards = [list(corpus.documents(shard)) for shard in corpus.shards()]
    names = [document.source_id for shard in shards for document in shard]
    assert len(names) == len(set(names))
    assert {"argparse", "json", "json.decoder", "os"} <= set(names)
    assert not [name for name in names if name is None or {"test", "tests", "idle_test"} & set(name.split("."))]
    assert all(80 <= len(shard) <= 200 for shard in shards)
    chars = [sum(len(document.text) for document in shard) for shard in shards]
    assert min(chars) > 0.6 * max(chars)
    assert len(set(fingerprints(corpus).values())) == 4


def test_function_passages_stand_in_the_modules_text() -> None:
    source = '''
def top(a, *, b=1):
    """First.

    Second.
    """

class Shape:
    if FAST:
        @property
        def area(self) -> float:
            """Area.

            In:
                square metres.
            """

    def bare(self): ...

    class Part:
        async def fetch(self):
            """Fetch."""
'''
    tree = ast.parse(source)
    passages = list(function_passages(tree.body))
    assert passages == [
        ("top", "top(a, *, b=1)", "    First.\n\n    Second."),
        ("Shape.area", "    property area(self) -> float", "        Area.\n\n        In:\n            square metres."),
        ("Shape.Part.fetch", "        async fetch(self)", "            Fetch."),
    ]
    text = module_text("shapes", tree)
    assert all(f"\n\n{signature}\n\n{docstring}\n" in text for _, signature, docstring in passages)
