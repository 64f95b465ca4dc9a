"""Write the pages that come from the code: `python docs/generate.py`. A test fails when one is stale."""

from __future__ import annotations

from pathlib import Path

from lookalike.cli.dropin import ACTIONS, action_help, setting_lines
from lookalike.config.schemas import RunConfig
from lookalike.workflow.failures import FAILURES

PAGE = Path(__file__).with_name("settings.md")
TROUBLESHOOTING = Path(__file__).parents[1] / "skills/lookalike-mining/references/troubleshooting.md"


def settings_page() -> str:
    """The page `settings.md`: the help of every drop-in action, and the settings of a run."""
    parts = [
        "# Settings of the commands",
        "",
        "`make docs` writes this page: what `--help` of the drop-in commands prints, and the settings of",
        "`lookalike mine` ([run.md](run.md)). Settings stand in a YAML file (`-e spec.yaml`) or on the command line",
        "(`key=value`). The order of precedence is default < YAML < command line.",
    ]
    for category, actions in ACTIONS.items():
        for name, action in actions.items():
            parts += ["", f"## {category} {name}", "", "```text", action_help(category, name, action), "```"]
    parts += ["", "## lookalike mine", "", "```text", *setting_lines(RunConfig), "```"]
    return "\n".join(parts) + "\n"


def troubleshooting_page() -> str:
    """The skill's page `troubleshooting.md`: what the hook `output` knows."""
    parts = [
        "# Known failures",
        "",
        "`lookalike hook output` finds these in what a command printed; `make docs` writes this page from its table.",
        "",
        "| failure | what it means | what to do |",
        "|---|---|---|",
    ]
    parts += [f"| {failure.code} | {failure.meaning} | {failure.action} |" for failure in FAILURES]
    parts += [
        "",
        "If nothing fits: run the command again with `TAO_LOGGING_LEVEL=DEBUG`, read the end of it and",
        "`run.log`, and look at the machine:",
        "",
        "```bash",
        "lookalike doctor",
        "```",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(settings_page(), encoding="utf-8")
    TROUBLESHOOTING.write_text(troubleshooting_page(), encoding="utf-8")
