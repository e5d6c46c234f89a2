"""Benches answer to --help as commands do: it ends with an example that their own parser takes."""

import runpy
import shlex
import sys

import pytest
from launching import REPOSITORY
from parsing import parsed

BENCHES = sorted(
    str(path.relative_to(REPOSITORY))
    for path in (REPOSITORY / "tools/bench").glob("*.py")
    if "__main__" in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("bench", BENCHES)
def test_help_ends_with_an_example_that_the_bench_takes(bench, monkeypatch, capsys):
    monkeypatch.syspath_prepend(REPOSITORY / "tools/bench")
    monkeypatch.setattr(sys, "argv", [bench, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(REPOSITORY / bench), run_name="__main__")
    *_, title, example = capsys.readouterr().out.splitlines()
    words = shlex.split(example)
    assert (ended.value.code, title) == (0, "example:") and words[words.index(bench) - 1] == "python"
    assert parsed(bench, words[words.index(bench) + 1 :], monkeypatch)
