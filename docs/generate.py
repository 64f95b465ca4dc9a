"""Write the pages that come from the code: `python docs/generate.py`. A test fails when one is stale."""

from __future__ import annotations

from pathlib import Path

from lookalike.cli.dropin import ACTIONS, action_help, setting_lines
from lookalike.config.schemas import RunConfig

PAGE = Path(__file__).with_name("settings.md")


def settings_page() -> str:
    """The page `settings.md`: the help of every drop-in action, and the settings of a run."""
    parts = [
        "# Settings of the commands",
        "",
        "`make docs` writes this page: what `--help` of the drop-in commands prints, and the settings of `lookalike mine`",
        "([run.md](run.md)). Settings stand in a YAML file (`-e spec.yaml`) or on the command line (`key=value`). The order",
        "of precedence is default < YAML < command line.",
    ]
    for category, actions in ACTIONS.items():
        for name, action in actions.items():
            parts += ["", f"## {category} {name}", "", "```text", action_help(category, name, action), "```"]
    parts += ["", "## lookalike mine", "", "```text", *setting_lines(RunConfig), "```"]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(settings_page(), encoding="utf-8")
