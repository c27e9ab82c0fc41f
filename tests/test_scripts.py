"""House rules of the scripts: short, and nothing copied."""

import os
import re

import pytest

from conftest import ROOT

METHODS = ("sga", "map", "ste", "unoise", "danneal", "bb_sga", "bb_no_sga", "bb_plain")
TRAIN = ("mbt2018", "mbt2018_bb")


def lines(script):
    """Those after the module's docstring."""
    with open(os.path.join(ROOT, script + ".py")) as file:
        return file.read().split('"""', 2)[2].splitlines()


@pytest.mark.parametrize("script", METHODS)
def test_at_most_70_lines(script):
    assert len(lines(script)) <= 70


@pytest.mark.parametrize("script", METHODS + TRAIN)
def test_no_six_lines_are_shared(script):
    """Not even with other names and numbers, from the module's docstring down to `def main`."""
    def runs(name):
        end = lines(name).index("def main(argv=None):")
        body = lines(name)[:end]
        shapes = [re.sub(r"\w+", "w", line.strip()) for line in body
                  if line.strip() and not line.startswith(("import", "from"))]
        return {tuple(shapes[i:i + 6]) for i in range(len(shapes) - 5)}
    for other in set(METHODS + TRAIN) - {script}:
        assert not runs(script) & runs(other)
