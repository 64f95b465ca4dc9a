"""The installed commands as subprocesses: their environment, what they leave behind, where they are."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

#: Settings of the machine that would change what a command does.
_FOREIGN = ("TAO_LOGGING_LEVEL", "HYDRA_FULL_ERROR", "TRANSFORMERS_OFFLINE", "OC_CAUSE")


@dataclass(frozen=True)
class Completed:
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def lines(self):
        """Standard output, line by line."""
        return self.stdout.splitlines()

    @property
    def last_line(self):
        """The last line of standard output, or nothing."""
        return self.lines[-1] if self.lines else ""

    @property
    def body(self):
        """Standard output without its last line."""
        return "\n".join(self.lines[:-1])


def command_environment(changes=None):
    """The environment of a command: no network, none of the machine's own settings; None removes a variable."""
    environment = {key: value for key, value in os.environ.items() if key not in _FOREIGN}
    environment["HF_HUB_OFFLINE"] = "1"
    for key, value in (changes or {}).items():
        if value is None:
            environment.pop(key, None)
        else:
            environment[key] = value
    return environment


def script(name):
    """The path of an installed console script."""
    return str(Path(sys.executable).parent / name)
