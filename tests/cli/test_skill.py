"""The agent skill: by the convention, shipped in the wheel, and with commands that exist."""

import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import skills_ref
import typer
from docs.generate import TROUBLESHOOTING, troubleshooting_page

import lookalike
from lookalike.cli.dropin import ACTIONS
from lookalike.cli.main import app
from lookalike.config.schemas import RunConfig, settings_of
from lookalike.errors import TableError
from lookalike.selection.filters import OUTCOMES
from lookalike.tables.run_folder import RunFolder
from lookalike.workflow.checks.finding import MEANINGS, Rule
from lookalike.workflow.checks.report import SECTIONS
from lookalike.workflow.hooks import HOOKS
from lookalike.workflow.skill import DEFAULT_FOLDER, MANIFEST, install_skill, skill_path, skill_version

ROOT = Path(__file__).parents[2]
SKILL = ROOT / "skills" / "lookalike-mining"
PAGES = sorted(SKILL.rglob("*.md"))
COMMANDS = sorted(
    {
        (page.relative_to(SKILL).as_posix(), line)
        for page in PAGES
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        for line in block.replace("\\\n", " ").splitlines()
    }
)


def test_the_skill_follows_the_convention():
    assert skills_ref.validate(SKILL) == []
    properties = skills_ref.read_properties(SKILL)
    assert properties.name == SKILL.name
    assert properties.license == "Apache-2.0"
    assert properties.compatibility
    assert properties.allowed_tools
    assert properties.metadata["version"] == lookalike.__version__ == skill_version()
    assert len((SKILL / "SKILL.md").read_text(encoding="utf-8").splitlines()) < 500


def test_links_within_the_skill_lead_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).is_file(), f"{page.name} links to {link}"


def test_evals_have_the_form_of_the_convention():
    content = json.loads((SKILL / "evals" / "evals.json").read_text(encoding="utf-8"))
    assert content["skill_name"] == SKILL.name
    assert [case["id"] for case in content["evals"]] == list(range(1, len(content["evals"]) + 1))
    for case in content["evals"]:
        assert set(case) == {"id", "prompt", "expected_output", "files", "assertions"}
        assert case["prompt"] and case["expected_output"] and case["assertions"]


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_every_command_of_the_skill_is_one_that_the_commands_take(page, line, run_command, tmp_path):
    """`lookalike ...` is parsed by its real options, drop-in commands compose their settings; help is printed."""
    if line.startswith("echo "):
        done = subprocess.run(
            ["bash", "-c", line], capture_output=True, text=True, check=False, cwd=tmp_path,
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        )  # fmt: skip
        assert done.stdout.startswith("failed: ")
        return
    name, *words = shlex.split(line)
    if name in ACTIONS:
        specs = [place for place, word in enumerate(words) if word == "-e"]
        for place in specs:
            spec = tmp_path / words[place + 1]
            spec.parent.mkdir(parents=True, exist_ok=True)
            required = "model: CLIP\nmodel_path: a\n" if name == "embedding" else "topn: 3\n"
            spec.write_text(required)
        shown = words if "--help" in words else [*words, "--cfg=job"]
        done = run_command(name, *shown, cwd=tmp_path)
        assert done.last_line == "Execution status: PASS", done.stderr
        assert "???" not in done.stdout or "--help" in words
        return
    assert name == "lookalike"
    command = typer.main.get_command(app)
    if words[0] not in command.commands:
        pytest.skip(f"lookalike {words[0]} is not in this checkout yet")
    command.commands[words[0]].make_context(words[0], words[1:])


def test_the_settings_that_the_skill_tells_are_those_of_the_commands():
    text = (SKILL / "references" / "settings.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+) (\w+)` \| `(\w+)` \| (\S+) \|", text, re.MULTILINE)
    assert len(rows) >= 10
    for category, action, key, default in rows:
        real = {setting.key: setting.default for setting in settings_of(ACTIONS[category][action].schema)}[key]
        assert default == {"???": "required"}.get(str(real), str(real).lower())


def test_the_settings_of_a_run_that_the_skill_tells_are_those_of_the_command():
    text = (SKILL / "references" / "settings.md").read_text(encoding="utf-8")
    real = {setting.key: str(setting.default).lower() for setting in settings_of(RunConfig)}
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| (\S+) \|", text, re.MULTILINE)
    told = {key: default for keys, default in rows for key in re.findall(r"`(\w+)`", keys)}
    assert {key: real[key] or "empty" for key in told} == told
    everything = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for key in ("protect", "exclude", "history", "avoid", "scoring", "budget", "self_match"):
        assert key in told
        assert f"{key}=" in everything


def test_the_references_are_those_of_the_code():
    """Sections, outcomes, files, hooks and failures."""
    report = (SKILL / "references" / "report.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| ([A-Z][\w -]+?) \|", report, re.MULTILINE) == [section.title for section in SECTIONS]
    files = (SKILL / "references" / "run-folder.md").read_text(encoding="utf-8")
    folder = RunFolder(Path())
    for name in [name for name in dir(RunFolder) if isinstance(getattr(RunFolder, name), property)]:
        assert f"`{getattr(folder, name).name}" in files
    for outcome in OUTCOMES:
        assert f"`{outcome}`" in files
    assert TROUBLESHOOTING.read_text(encoding="utf-8") == troubleshooting_page(), "run `make docs`"


def test_the_page_for_agents_has_every_rule_and_every_hook():
    page = (ROOT / "docs" / "agents.md").read_text(encoding="utf-8")
    assert set(MEANINGS) == set(Rule)
    for rule, meaning in MEANINGS.items():
        assert f"| `{rule}` | {meaning} |" in page
    for name in HOOKS:
        assert f"| `{name}` |" in page
    assert "A transcript can hold secrets" in page


def test_the_hooks_of_the_skill_are_thin_calls():
    content = json.loads((SKILL / "hooks" / "hooks.json").read_text(encoding="utf-8"))
    called = [hook["command"] for groups in content["hooks"].values() for group in groups for hook in group["hooks"]]
    assert set(called) == {f"lookalike hook {name} --for-agent" for name in HOOKS}
    assert set(content["hooks"]) == {"PostToolUse", "PostToolUseFailure"}


# Installing


def test_the_skill_is_copied_and_kept_up_to_date(run_command, tmp_path):
    done = run_command("lookalike", "skill", "install", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    copy = tmp_path / DEFAULT_FOLDER / SKILL.name
    assert done.lines[0] == f"Skill installed: {DEFAULT_FOLDER / SKILL.name}"
    for path in SKILL.rglob("*"):
        if path.is_file():
            assert (copy / path.relative_to(SKILL)).read_bytes() == path.read_bytes()
    assert skills_ref.validate(copy) == []
    assert install_skill(tmp_path / DEFAULT_FOLDER) == (copy, "up to date")
    # A changed copy stays, unless the user says otherwise.
    with (copy / "SKILL.md").open("a") as stream:
        stream.write("\nOur own rule.\n")
    done = run_command("lookalike", "skill", "install", "--dir", copy.parent, cwd=tmp_path)
    assert done.returncode == 1
    assert "a copy that was changed (SKILL.md)" in done.stderr
    assert "Our own rule" in (copy / "SKILL.md").read_text()
    done = run_command("lookalike", "skill", "install", "--dir", copy.parent, "--force", cwd=tmp_path)
    assert done.lines[0] == f"Skill updated: {copy}"
    assert "Our own rule" not in (copy / "SKILL.md").read_text()
    assert [path.name for path in copy.parent.iterdir()] == [SKILL.name], "nothing is left beside it"


def test_a_copy_that_nobody_changed_is_updated(tmp_path):
    """An older version lies there, as its own installation left it."""
    copy, _ = install_skill(tmp_path)
    digests = json.loads((copy / MANIFEST).read_text())
    (copy / "SKILL.md").write_text("an older version")
    digests["SKILL.md"] = hashlib.sha256(b"an older version").hexdigest()
    (copy / MANIFEST).write_text(json.dumps(digests))
    assert install_skill(tmp_path) == (copy, "updated")
    assert (copy / "SKILL.md").read_bytes() == (SKILL / "SKILL.md").read_bytes()


def test_a_copy_stays_where_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    copy, _ = install_skill(tmp_path)
    (copy / "ours.md").write_text("ours")
    rename = Path.rename

    def fail(path, target):
        if path.name == "new":
            raise OSError(16, "Device or resource busy")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(TableError, match="cannot be written"):
        install_skill(tmp_path, force=True)
    assert (copy / "ours.md").read_text() == "ours"
    assert [path.name for path in tmp_path.iterdir()] == [SKILL.name], "nothing is left beside it"


def test_what_a_user_added_or_linked_is_not_lost(tmp_path):
    copy, _ = install_skill(tmp_path)
    (copy / "ours.md").write_text("ours")
    with pytest.raises(TableError, match=r"ours\.md"):
        install_skill(tmp_path)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / SKILL.name).symlink_to(copy)
    with pytest.raises(TableError, match="is a link"):
        install_skill(tmp_path / "linked", force=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(TableError, match="cannot be written"):
        install_skill(tmp_path / "file")


def test_the_path_of_the_skill(run_command, tmp_path):
    done = run_command("lookalike", "skill", "path", cwd=tmp_path)
    assert Path(done.last_line) == skill_path() == SKILL


def test_the_wheel_brings_the_skill(tmp_path):
    """Built, put into a folder of its own, and asked from outside the repository."""
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "dist"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = "from lookalike.workflow.skill import *; print(skill_path(), *install_skill(Path('copy')))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split()[0] == str(tmp_path / "site" / "lookalike" / "skills" / SKILL.name)
    shipped = {path.relative_to(SKILL) for path in SKILL.rglob("*") if path.is_file()}
    copied = {
        path.relative_to(tmp_path / "copy" / SKILL.name)
        for path in (tmp_path / "copy" / SKILL.name).rglob("*")
        if path.is_file()
    }
    assert copied - {Path(MANIFEST)} == shipped
