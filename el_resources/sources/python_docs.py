"""The embedded corpus: the running interpreter's standard library as readable text, one document per module.

Sources are parsed with `ast` and never imported, so reading has no side effects. A document is the module's docstring
followed by its documented classes and functions: signatures and docstrings, members indented under their class.
Definitions without a docstring are left out: they are code, not text.

Guarantees: there are four shards. A module's shard depends on its name alone, so further modules of another interpreter
move no other module. Tests and installed packages (site-packages, dist-packages) are never read.
Cost: about half a second of one core per shard.
"""

import ast
import sys
import sysconfig
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from zlib import crc32

from el_resources.sources.contracts import CorruptShardError, SourceDocument, unknown_shard

# Part of every fingerprint; it rises when the same sources are rendered differently.
READER_VERSION = 1
N_SHARDS = 4
# Shorter documents are a heading and a sentence at most.
SHORTEST_DOCUMENT_CHARS = 200
LICENSE = "PSF-2.0"
TEST_FOLDERS = frozenset({"test", "tests", "idle_test"})

# Decorators that change how a member is used; they are shown before its signature.
USAGE_DECORATORS = ("abstractmethod", "classmethod", "staticmethod", "property")
INDENT = " " * 4

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = ast.ClassDef | Function


@dataclass(frozen=True, kw_only=True)
class PythonDocs:
    """`python-docs:`, over the standard library below `stdlib`."""

    uri: str = "python-docs:"
    stdlib: Path = field(default_factory=lambda: Path(sysconfig.get_path("stdlib")))

    def shards(self) -> list[str]:
        return [f"python-docs-{number}" for number in range(N_SHARDS)]

    def passed_over(self) -> dict[str, str]:
        return {}

    def shard_fingerprint(self, shard: str) -> str:
        """Return a hash of the shard's source files, and of the Python version, whose `ast` parses and prints them."""
        content = blake2b(repr((READER_VERSION, sys.version_info[:2])).encode(), digest_size=16)
        for module, path in self._modules(shard):
            source = path.read_bytes()
            content.update(f"{module} {len(source)} ".encode())
            content.update(source)
        return content.hexdigest()

    def origin(self, shard: str) -> dict[str, str]:
        return {"source": self.uri}

    def documents(self, shard: str) -> Iterator[SourceDocument]:
        texts = ((module, module_text(module, tree)) for module, tree in self.syntax_trees(shard))
        return (
            SourceDocument(source_id=module, text=text, license=LICENSE)
            for module, text in texts
            if len(text) >= SHORTEST_DOCUMENT_CHARS
        )

    def syntax_trees(self, shard: str) -> Iterator[tuple[str, ast.Module]]:
        """Return an iterator over (name, syntax tree) of the shard's modules, documented or not."""
        return ((module, _parse(path, shard)) for module, path in self._modules(shard))

    def _modules(self, shard: str) -> list[tuple[str, Path]]:
        if shard not in self.shards():
            raise unknown_shard(shard, self.uri, self.shards())
        modules = sorted(stdlib_modules(self.stdlib))
        if not modules:
            raise FileNotFoundError(
                f"no Python sources in {self.stdlib}: this interpreter ships without them;"
                " name another corpus, for example parquet:data/*.parquet"
            )
        return [(module, path) for module, path in modules if shard_of(module) == shard]


def stdlib_modules(folder: Path, package: str = "") -> Iterator[tuple[str, Path]]:
    """Yield (dotted name, file) of every module below `folder` that can be imported by name and is not a test."""
    for path in folder.iterdir():
        name = f"{package}{path.stem}"
        if path.is_dir() and path.name.isidentifier() and path.name not in TEST_FOLDERS:
            yield from stdlib_modules(path, f"{name}.")
        elif path.suffix == ".py" and path.stem == "__init__" and package:
            yield package.removesuffix("."), path
        elif path.suffix == ".py" and path.stem.isidentifier():
            yield name, path


def shard_of(module: str) -> str:
    """Return the shard of a module, by a hash of its name that is the same in every process."""
    return f"python-docs-{crc32(module.encode()) % N_SHARDS}"


def module_text(module: str, tree: ast.Module) -> str:
    """Return a module's document: its name as a heading, its docstring, its definitions, with blank lines between."""
    heading = f"{module}\n{'=' * len(module)}"
    text = "\n\n".join([heading, *_docstring(tree), *_definition_blocks(tree.body)])
    # An escape in a docstring may be a lone surrogate, which UTF-8 cannot encode: the document keeps the escape.
    return text.encode("utf-8", "backslashreplace").decode("utf-8") + "\n"


def function_passages(body: list[ast.stmt], owner: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield (qualified name, signature, docstring) of every function in a module's text.

    Signature and docstring are indented as in the text, in which a blank line is between them.
    """
    indent = INDENT * owner.count(".")
    for statement in body:
        if isinstance(statement, ast.ClassDef):
            yield from function_passages(statement.body, f"{owner}{statement.name}.")
        elif isinstance(statement, Function):
            for docstring in _docstring(statement):
                lines = textwrap.indent(_signature(statement), indent), textwrap.indent(docstring, indent + INDENT)
                yield f"{owner}{statement.name}", *lines
        else:
            yield from function_passages(_branches(statement), owner)


def _parse(path: Path, shard: str) -> ast.Module:
    # Bytes, not text: the parser then honours the file's own coding declaration.
    with warnings.catch_warnings(action="ignore"):
        try:
            return ast.parse(path.read_bytes())
        except (SyntaxError, ValueError) as error:
            raise CorruptShardError(shard, str(path), f"not Python source ({error})") from error


def _docstring(node: ast.Module | Definition) -> list[str]:
    docstring = ast.get_docstring(node)
    return [docstring] if docstring else []


def _definition_blocks(body: list[ast.stmt]) -> Iterator[str]:
    """Yield the blocks of the definitions in a module's or class's body, also of those under `if`, `try` and `with`."""
    for statement in body:
        if isinstance(statement, ast.ClassDef):
            yield from _class_blocks(statement)
        elif isinstance(statement, Function):
            yield from _function_blocks(statement)
        else:
            yield from _definition_blocks(_branches(statement))


def _branches(statement: ast.stmt) -> list[ast.stmt]:
    """Return the statements directly under a compound statement, in source order; none for a simple statement."""
    fields = ("body", "handlers", "orelse", "finalbody")
    return [child for name in fields for child in getattr(statement, name, [])]


def _class_blocks(node: ast.ClassDef) -> Iterator[str]:
    blocks = [*_docstring(node), *_definition_blocks(node.body)]
    if blocks:
        bases = ", ".join(ast.unparse(base) for base in [*node.bases, *node.keywords])
        yield f"class {node.name}({bases})" if bases else f"class {node.name}"
        yield from (textwrap.indent(block, INDENT) for block in blocks)


def _function_blocks(node: Function) -> Iterator[str]:
    for docstring in _docstring(node):
        yield _signature(node)
        yield textwrap.indent(docstring, INDENT)


def _signature(node: Function) -> str:
    decorators = {ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list}
    usage = [name for name in USAGE_DECORATORS if name in decorators]
    words = [*usage, *(["async"] if isinstance(node, ast.AsyncFunctionDef) else []), node.name]
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{' '.join(words)}({ast.unparse(node.args)}){returns}"
