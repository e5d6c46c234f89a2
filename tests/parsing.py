"""Runs a command as far as its parser, so that a test sees whether it takes an example."""

import argparse
import runpy
import sys

import pytest
from launching import REPOSITORY


def parsed(command: str, given: list[str], monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """What the command's own parser makes of its arguments; the command goes no further."""

    class Parsed(Exception):
        pass

    def stop_after(parse):
        def parse_and_stop(self, *arguments):
            raise Parsed(parse(self, *arguments))

        return parse_and_stop

    for name in ("parse_args", "parse_intermixed_args"):
        monkeypatch.setattr(argparse.ArgumentParser, name, stop_after(getattr(argparse.ArgumentParser, name)))
    monkeypatch.setattr(sys, "argv", [command, *given])
    with pytest.raises(Parsed) as caught:
        runpy.run_path(str(REPOSITORY / command), run_name="__main__")
    return caught.value.args[0]
