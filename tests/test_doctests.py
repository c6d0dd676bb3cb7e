"""The examples in docstrings and in the documentation give what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from importlib.util import find_spec
from pathlib import Path

import pytest

import pyfed
from case import GRADIENTS
from pyfed.op import OPS

MISSING = "pyfed.engines.flower" if find_spec("flwr") is None else None  # of an extra
DOCS = Path(__file__).parent.parent / "docs"
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(pyfed.__path__, "pyfed.")
    if not module.name.endswith(("__main__", "._C"))
    and "triton_kernels" not in module.name
    and module.name != MISSING
)
PAGES = sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str) -> None:
    module = importlib.import_module(name)
    failures, _ = doctest.testmod(module)
    assert failures == 0


@pytest.mark.parametrize("page", PAGES)
def test_examples_in_the_documentation(page: str) -> None:
    # A code block ends at its fence, which doctest would take for output.
    text = (DOCS / page).read_text().replace("\n```", "\n\n```")
    parsed = doctest.DocTestParser().get_doctest(text, {}, page, page, 0)
    assert doctest.DocTestRunner().run(parsed).failed == 0


def test_every_op_and_some_page_has_an_example() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = {
        test.name.rsplit(".", 1)[-1]
        for name in MODULES
        for test in finder.find(importlib.import_module(name))
        if test.examples
    }
    assert set(OPS) - set(GRADIENTS) <= found
    assert any(">>>" in (DOCS / page).read_text() for page in PAGES)
