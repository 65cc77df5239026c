"""The guide: its Python runs and gives what stands beside it, and its lists are those of the code.

    value  # -> 3; a remark        the value of the line equals that of the text
    call()  # raises InvalidTag    the line raises it

The blocks below one heading are run one after the other in one namespace; those with an ``await`` outside of a
function in one event loop. Blocks with tests are run by pytest. The URLs below are those of servers of this module.
"""

import ast
import asyncio
import builtins
import inspect
import io
import os
import pathlib
import pkgutil
import re
import tokenize

import pytest
from servers import Memcached, Redis

import zoocache
from zoocache import _ffi, _options
from zoocache._functions import cacheable
from zoocache._table import Rules

PATH = pathlib.Path(__file__).parents[1] / "GUIDE.md"
TEXT = PATH.read_text("utf-8")
LINES = TEXT.split("\n")

NEEDS = {"redis://": "redis", "lmdb://": "lmdb"}


def blocks():
    """Every block of code: the heading above it, its language, its first line (from 0), its lines."""
    heading, start, language = "", None, ""
    for number, line in enumerate(LINES):
        if start is not None:
            if line.strip() == "```":
                yield heading, language, start, LINES[start:number]
                start = None
        elif line.startswith("```"):
            start, language = number + 1, line[3:].strip()
        elif line.startswith("#"):
            heading = line.lstrip("# ")


SECTIONS: dict[str, list[tuple[int, str]]] = {}
for _heading, _language, _start, _lines in blocks():
    if _language == "python":
        SECTIONS.setdefault(_heading, []).append((_start, "\n".join(_lines) + "\n"))


# ---- what stands behind a line -------------------------------------------------------------------------


def remarks(source):
    """The comments of a block that say what a line gives, by line."""
    found = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            match = re.match(r"# (->|raises) (.+)", token.string)
            if match:
                found[token.start[0]] = match[1], match[2].partition("; ")[0].strip()
    return found


class Checking(ast.NodeTransformer):
    """Puts a check round each line that has a remark."""

    def __init__(self, source):
        self.left = remarks(source)

    def visit(self, node):
        node = super().generic_visit(node)
        if not isinstance(node, ast.stmt) or hasattr(node, "body") or node.end_lineno not in self.left:
            return node
        kind, text = self.left.pop(node.end_lineno)
        if kind == "->":
            call = ast.Call(ast.Name("_gives", ast.Load()), [node.value, ast.Constant(text)], [])
            node.value = ast.copy_location(call, node)
            return node
        context = ast.Call(ast.Name("_raises", ast.Load()), [ast.Constant(text)], [])
        return ast.copy_location(ast.With([ast.withitem(context)], [node]), node)


def compiled(start, source, servers):
    """A block with its checks, which has the line numbers of the guide."""
    tree = ast.parse(source)
    checking = Checking(source)
    tree = ast.fix_missing_locations(checking.visit(tree))
    assert not checking.left, f"a remark behind what gives nothing: {checking.left}"
    ast.increment_lineno(tree, start)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            for url, real in servers.items():
                node.value = node.value.replace(url, real)
    return compile(tree, str(PATH), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def namespace():
    """What a block is run in."""

    def gives(value, text):
        wanted = eval(text, space)
        assert type(value) is type(wanted), f"{value!r} is not {text}"
        assert value == wanted
        return value

    def raises(name):
        return pytest.raises(getattr(builtins, name, None) or getattr(zoocache, name))

    space = {"__name__": "__main__", "_gives": gives, "_raises": raises}
    return space


# ---- the blocks ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Redis(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def memcached(tmp_path_factory):
    server = Memcached(tmp_path_factory.mktemp("memcached"))
    yield server
    server.stop()


@pytest.fixture
def servers(request, tmp_path, title):
    """What stands in the guide, and what takes its place."""
    text = "".join(source for _, source in SECTIONS[title])
    needed = {part for scheme, part in NEEDS.items() if scheme in text}
    lacking = [part for part in needed if not _ffi.parts()[part]]
    if lacking:
        pytest.skip(f"built without {' and '.join(lacking)}")
    found = {"lmdb:///var/cache/shop": f"lmdb://{tmp_path}", "file:///var/cache/shop": f"file://{tmp_path}/files"}
    if "memcached://localhost" in text:
        found["memcached://localhost"] = request.getfixturevalue("memcached").url
    if "redis" in needed:
        found["redis://localhost"] = request.getfixturevalue("server").url
    if "postgresql://localhost/shop" in text:
        found["postgresql://localhost/shop"] = request.getfixturevalue("postgres").database("shop")
    return found


@pytest.mark.parametrize("title", SECTIONS)
def test_the_blocks_run(title, servers, request, monkeypatch):
    for name in [name for name in os.environ if name.startswith("ZOOCACHE_") and name != "ZOOCACHE_LIB"]:
        monkeypatch.delenv(name)
    codes = []
    for start, source in SECTIONS[title]:
        if re.search(r"^(async )?def test_|^class Test", source, re.M):
            run_tests(request.getfixturevalue("pytester"), source)
        else:
            codes.append(compiled(start, source, servers))
    space = namespace()
    if any(code.co_flags & inspect.CO_COROUTINE for code in codes):
        asyncio.run(run_all(codes, space))
    else:
        for code in codes:
            exec(code, space)


async def run_all(codes, space):
    """Runs blocks in one event loop."""
    for code in codes:
        value = eval(code, space)
        if inspect.isawaitable(value):
            await value


def run_tests(pytester, source):
    """Runs a block with tests. What does not concern it may be skipped."""
    pytester.makepyfile(source)
    outcomes = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:asyncio").parseoutcomes()
    assert outcomes["passed"] and outcomes.keys() <= {"passed", "skipped"}


def test_each_heading_is_one_of_its_kind():
    headings = [line.lstrip("# ") for line in LINES if re.match("#{2,3} ", line)]
    assert len(headings) == len(set(headings))
    assert SECTIONS.keys() <= set(headings)


def test_no_other_server_is_named():
    """What a block opens is what the tests have started."""
    for title, found in SECTIONS.items():
        for _, source in found:
            urls = re.findall(r"[a-z+]+://[^\"' ]*", source)
            known = ("sqlite://", "http://test", "redis://localhost", "lmdb:///var/cache/shop", "redis://127.0.0.1:{")
            known += ("postgresql://localhost/shop", "memcached://localhost", "file:///var/cache/shop")
            assert all(url.startswith(known) for url in urls), (title, urls)


def test_what_is_named_is_there():
    import djangoshop  # noqa: F401 - what is of Django is there in a project

    for name in set(re.findall(r"`(zoocache(?:\.\w+)+)", TEXT)) - {"zoocache.contrib"}:
        pkgutil.resolve_name(name)


# ---- its lists -----------------------------------------------------------------------------------------


def rows(title):
    """The rows of the first table below a heading."""
    text = TEXT.partition(f"# {title}\n")[2].partition("\n#")[0]
    lines = [line for line in text.split("\n") if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def names(title):
    """What is named in the first column of a table."""
    return [name for row in rows(title) for name in re.findall(r"`(\w+)`", row[0])]


def test_every_option_of_a_function_is_there():
    options = [*inspect.signature(cacheable).parameters, *inspect.signature(Rules).parameters]
    assert sorted(names("Options of a function")) == sorted({*options} - {"func", "rules"})


def test_every_statistic_is_there():
    assert names("Statistics") == list(zoocache.CacheStats._fields)


def test_every_error_is_there():
    errors = [name for name in zoocache.__all__ if isinstance(getattr(zoocache, name), type)]
    assert sorted(names("What is raised")) == sorted(x for x in errors if issubclass(getattr(zoocache, x), Exception))


def test_every_variable_that_is_named_is_one():
    known = {_options._variable(name) for name in _options.DEFAULTS} | _options._OTHERS
    assert set(re.findall(r"ZOOCACHE_\w+", TEXT)) <= known


def test_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)]+)\)", TEXT):
        file, _, anchor = link.partition("#")
        target = PATH.parent / file if file else PATH
        assert target.exists(), link
        if anchor:
            headings = [line.lstrip("# ") for line in target.read_text("utf-8").split("\n") if line[:1] == "#"]
            assert anchor in [re.sub(r"[^\w -]", "", line).lower().replace(" ", "-") for line in headings], link
