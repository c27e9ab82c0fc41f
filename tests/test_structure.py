"""The house: what stands where, how long it may be, and who may import whom."""

import ast
import glob
import os

import pytest

from conftest import ROOT

# Each module of plumbing imports only those before it.
ORDER = ("basics", "grid", "layers", "clusters", "machine", "fileformat", "coding",
         "bits_back", "compressed_files", "image_files", "runs", "quality", "progress",
         "arguments", "command_line", "decompression", "workers", "patches", "training",
         "validation", "result_files", "store", "tasks")
MODULES = sorted(glob.glob(os.path.join(ROOT, "plumbing", "*.py")))
SOURCES = sorted(glob.glob(os.path.join(ROOT, "*.py"))) + MODULES + sorted(
    glob.glob(os.path.join(ROOT, "results", "*.py")))
# Parsers, a list of options each, may be long.
PARSERS = ("add_train_options", "add_compress_options", "make_parser")


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def name_of(path):
    return os.path.relpath(path, ROOT)


def imports_of_plumbing(tree):
    """Names of modules of plumbing that are imported anywhere in a tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "plumbing":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("plumbing."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names
                        if alias.name.startswith("plumbing."))


def test_imports_of_plumbing_go_downward():
    assert {os.path.basename(path)[:-3] for path in MODULES} == {"__init__", *ORDER}
    for k, module in enumerate(ORDER):
        source = read(os.path.join(ROOT, "plumbing", module + ".py"))
        assert "tf_boilerplate" not in source
        assert set(imports_of_plumbing(ast.parse(source))) <= set(ORDER[:k]), module


def test_the_package_lists_its_modules_in_their_order():
    listed = [line.split()[0] for line in ast.get_docstring(ast.parse(read(MODULES[0])))
              .splitlines() if line.startswith("    ")]
    assert listed == list(ORDER)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_lengths(path):
    """Of files, functions and lines."""
    limit = 450
    if name_of(path) == "tf_boilerplate.py":
        limit = 1050
    elif path in MODULES:
        limit = 400
    source = read(path)
    lines = source.splitlines()
    assert len(lines) <= limit
    assert max(map(len, lines), default=0) <= 100
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and node.name not in PARSERS:
            last = max(getattr(child, "lineno", 0) for child in ast.walk(node))
            assert last - node.lineno < 50, node.name


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_nothing_is_hidden_by_a_local_name(path):
    """No module of plumbing, and no function or class of the module itself."""
    tree = ast.parse(read(path))
    names = set(imports_of_plumbing(tree)) & set(ORDER)
    names |= {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    names -= {"train"}  # the scripts' keyword of `main`
    stored = {node.id for node in ast.walk(tree)
              if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    arguments = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    assert not names & (stored | arguments)


@pytest.mark.parametrize("path", [path for path in SOURCES if os.path.dirname(path) == ROOT],
                         ids=name_of)
def test_scripts_import_the_shared_file_alone(path):
    if name_of(path) != "tf_boilerplate.py":
        assert not list(imports_of_plumbing(ast.parse(read(path))))
