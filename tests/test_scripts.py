"""House rules of the scripts: short, and nothing copied."""

import os

import pytest

from conftest import ROOT

METHODS = ("sga", "map", "ste", "unoise", "danneal", "bb_sga", "bb_no_sga", "bb_plain")


def lines(script):
    with open(os.path.join(ROOT, script + ".py")) as file:
        return file.read().splitlines()


@pytest.mark.parametrize("script", METHODS)
def test_at_most_70_lines(script):
    assert len(lines(script)) <= 70


@pytest.mark.parametrize("script", METHODS)
def test_no_six_lines_are_shared(script):
    """Down to `def main`, where each script's closing lines start."""
    def runs(name):
        body = [line.strip() for line in lines(name)[:lines(name).index("def main(argv=None):")]
                if line.strip()]
        return {tuple(body[i:i + 6]) for i in range(len(body) - 5)}
    for other in set(METHODS) - {script}:
        assert not runs(script) & runs(other)
