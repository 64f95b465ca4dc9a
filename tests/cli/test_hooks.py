"""`lookalike hook`: real JSON in, text out, exit status 0 whatever comes in."""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from lookalike.cli.main import app
from lookalike.tables.run_folder import RunFolder
from lookalike.workflow.check import check_run
from lookalike.workflow.failures import FAILURES, known_failures
from lookalike.workflow.hooks import HOOKS, run_hook
from lookalike.workflow.packaging import package_run
from lookalike.workflow.shell import calls, runs_mine
from support.commands import command_environment, script
from support.embeddings import identity, write_embeddings
from support.reports import make_finished_run

SESSION = {"session_id": "5f0c", "hook_event_name": "PostToolUse"}
POSIX = pytest.mark.skipif(os.name == "nt", reason="links and modes are those of POSIX")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run in order. Read only."""
    return make_finished_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def run(finished, tmp_path):
    """A copy of that run, to be changed."""
    shutil.copytree(finished.path, tmp_path / "run")
    return RunFolder(tmp_path / "run")


@pytest.fixture(scope="module")
def board_run(run_command, tmp_path_factory, images, clip_snapshot):
    """A run of the real command with everything that it warns of, and what it printed on both streams."""
    place = tmp_path_factory.mktemp("mined")
    shutil.copytree(images, place / "pool")
    (place / "pool" / "broken.png").write_bytes(b"rubbish")
    words = ("--targets", "pool", "--pool", "pool", "--model", "CLIP", "--model-path", clip_snapshot, "--topn", "50",
             "scoring=nearest", "self_match=keep")  # fmt: skip
    done = run_command("lookalike", "mine", *words, "--filter-by-label", cwd=place)
    assert done.returncode == 0, done.stderr
    return RunFolder(Path(done.last_line)), done.stdout, done.stderr


@pytest.fixture
def transcript(tmp_path):
    """A transcript that everybody may read."""
    path = tmp_path / "sessions" / "5f0c.jsonl"
    path.parent.mkdir()
    path.write_text('{"type": "user", "text": "the password is 1234"}\n' * 3)
    path.chmod(0o644)
    return path


def shell(command, stdout="", stderr="", **more):
    """The event of a shell command."""
    return {**SESSION, "tool_name": "Bash", "tool_input": {"command": command},
            "tool_response": {"stdout": stdout, "stderr": stderr, "interrupted": False}, **more}  # fmt: skip


def written(path, **more):
    """The event of a file that was written."""
    return {**SESSION, "tool_name": "Write", "tool_input": {"file_path": str(path), "content": "..."},
            "tool_response": {"type": "create", "filePath": str(path)}, **more}  # fmt: skip


def call(name, event, *options, env=None, cwd=None):
    """Run the installed command with an event (an object, text or bytes) on standard input."""
    event = event if isinstance(event, bytes | str) else json.dumps(event)
    content = event if isinstance(event, bytes) else event.encode()
    done = subprocess.run(
        [script("lookalike"), "hook", name, *options],
        input=content, env=command_environment(env), cwd=cwd, capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    return done.stdout.decode()


def say(name, event):
    """The same within this process."""
    return run_hook(name, json.dumps(event).encode())


def codes(command, stdout):
    return [failure.code for failure in known_failures(command, stdout)]


# Whatever comes in


@pytest.mark.parametrize("name", [*HOOKS, "nonsense", ""])
@pytest.mark.parametrize(
    "content",
    [b"", b" \n", b"{", b"[]", b"null", b"12", b'"text"', b"\xff\xfe\x00", b"[" * 100_000, b"{}", b'{"tool_input": 3}',
     b'{"tool_input": {"command": ["tmm"], "file_path": 7}, "tool_response": [1], "transcript_path": {}}',
     *(b'{"tool_input": {"file_path": "' + path + b'/Mining_Report.md"}, "cwd": 5}'
       for path in (b".", b"a\\u0000b", b"\\ud800", b"~nobody-here", b"a/" * 5000)),
     b'{"tool_response": ' + b"9" * 5000 + b"}"],
    ids=lambda content: repr(content[:24]),
)  # fmt: skip
def test_no_input_is_too_strange(name, content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert isinstance(run_hook(name, content), str)
    assert list(tmp_path.iterdir()) == [], "nothing was written"


def test_the_command_ends_with_0_whatever_comes_in(tmp_path):
    for event in (b"", b"{", b"\xff" * 1000):
        assert "lookalike hook output:" in call("output", event)
    assert "there is no hook 'nonsense'" in call("nonsense", {}, "--what", "is", "this")
    big = json.dumps(shell("tmm nearest_neighbors", "x" * (17 << 20)))
    assert "larger than" in call("output", big)
    odd = written("/nowhere/\ud83d\udca9\u2028/Mining_Report.md")
    assert "is missing" in call("artifacts", odd, env={"PYTHONIOENCODING": "ascii"}, cwd=tmp_path)


def test_hooks_load_nothing_heavy(tmp_path):
    event = json.dumps(written(tmp_path / "Mining_Report.md")).encode()
    code = (
        "import sys; from lookalike.workflow.hooks import run_hook; import lookalike.cli.main\n"
        f"for name in {list(HOOKS)!r}: run_hook(name, {event!r})\n"
        "heavy = {'torch', 'transformers', 'numpy', 'pyarrow', 'numba', 'hydra', 'PIL', 'yaml'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_one_variable_silences_all_of_them(run, transcript):
    failed = shell("tmm nearest_neighbors", "Execution status: FAIL")
    event = written(run.report, transcript_path=str(transcript))
    run.mined.unlink()
    for name in HOOKS:
        assert call(name, failed if name == "output" else event, env={"MINING_HOOKS": "0"}) == ""
    assert not run.config.exists()
    assert not run.transcript.exists()
    assert call("output", failed, env={"MINING_HOOKS": "1"}) != ""


def test_text_for_the_agent_is_wrapped_as_it_reads_it():
    event = {
        **shell("tmm nearest_neighbors"),
        "hook_event_name": "PostToolUseFailure",
        "error": "Execution status: FAIL",
    }
    said = json.loads(call("output", event, "--for-agent"))
    assert said["hookSpecificOutput"]["hookEventName"] == "PostToolUseFailure"
    assert said["hookSpecificOutput"]["additionalContext"].startswith("failed: ")
    assert call("output", shell("ls"), "--for-agent") == ""


# The output of a command

#: What commands print, by the failure that it shows; lookalike's own are checked below against the real commands.
PRINTED = {
    "failed": "Execution status: FAIL",
    "not-installed": "bash: line 1: tmm: command not found",
    "container": "docker: Cannot connect to the Docker daemon at unix:///var/run/docker.sock.",
    "no-gpu": "Error: device='cuda' is not here\n  What to do: use auto or one of: cpu",
    "out-of-memory": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
    "disk": "Error: out/mined.parquet: cannot be written: No space left on device",
    "encoder-mismatch": "Error: the two tables were written by different encoders; they differ in weights:",
    "encoder-unknown": "  Warning: no encoder identity in a.parquet: made elsewhere, so that ... is not checked",
    "filter-off": "filter_by_label is on, but the target table t.parquet has no column 'label': not filtered",
    "nothing-mined": "  Unique items saved: 0",
    "missing-column": "Error: a.csv: has no column 'filepath'; its columns are ['path']",
    "missing-file": "Error: weak.parquet: does not exist",
    "no-images": "Error: none of the 12 images could be embedded: missing 12",
    "missing-images": "2 of 2 image files of the pool are not there; the first: a.png: No such file or directory",
    "set-aside": "Images set aside: 3",
    "missing-setting": "Error: MissingMandatoryValue: Missing mandatory value: source_parquet",
    "unknown-setting": "Error: override 'topm=3': unknown key 'topm'",
    "no-model": "couldn't connect to 'https://huggingface.co' to load the files",
    "clamped": "  Warning: topn=50 is more than the pool has: clamped to 20",
    "zero-vectors": "  Warning: 2 zero vectors in the source table: their cosine distance is 1 to everything",
    "read-only": "PermissionError: [Errno 13] Permission denied: '/results/mined.parquet'",
    "no-rows": "Error: weak.csv: has no rows: there is no target, so there is nothing to mine",
    "overlap": "  Warning: 3 of 9 targets are in the pool, too (by path): their nearest image is themselves",
    "left-out": "  Warning: 3 of 9 targets are in the pool, too (by path): they are left out (self_match=exclude)",
    "unfinished": "  The run is not finished; to go on: lookalike mine --resume /data/run",
    "not-here": "Error: tmm match is not in this version",
    "bug": "Error: this is a bug in lookalike; please report it with the lines above",
}


def test_every_known_failure_has_an_example():
    assert set(PRINTED) == {failure.code for failure in FAILURES}


@pytest.mark.parametrize("code", PRINTED)
def test_a_known_failure_is_told_with_its_meaning_and_what_to_do(code):
    """Exactly that one, whichever stream it is on, and not for the commands of others."""
    failure = next(failure for failure in FAILURES if failure.code == code)
    command = "cd /data && tmm nearest_neighbors -e spec.yaml"
    for event in (shell(command, PRINTED[code]), shell(command, stderr=f"a line\n{PRINTED[code]}\nanother")):
        assert say("output", event) == f"{code}: {failure.meaning}. What to do: {failure.action}."
    for other in ("cat notes.txt", "grep lookalike mine.log", 'git commit -m "lookalike mine prints this"'):
        assert say("output", shell(other, PRINTED[code])) == ""


#: Command lines that run `lookalike mine`.
MINES = [
    "lookalike mine --targets a --pool b",
    "cd 'my data' && lookalike mine -e run.yaml",
    "A=1 B='x y' .venv/bin/lookalike mine -e run.yaml > log.txt 2>&1",
    "C:/venv/Scripts/lookalike.exe mine -e run.yaml",
    "python -m lookalike mine -e run.yaml",
    "cd x; python3.12 -u -X dev -m lookalike mine -e run.yaml | tee log.txt",
    "uv run lookalike mine -e run.yaml",
    "uv run --with timm --python 3.12 python -m lookalike mine",
    "conda run -n vision lookalike mine -e run.yaml",
    "sudo -u me timeout -k 5 3600 lookalike mine -e run.yaml",
    "docker run --rm -v /a:/b image lookalike mine -e run.yaml",
    "bash -lc 'cd x; lookalike mine -e run.yaml'",
    "lookalike mine \\\n    --targets a \\\n    --pool b",
    "# don't wait\nif ! lookalike mine -e run.yaml; then echo failed; fi",
    "run=$(lookalike mine -e run.yaml | tail -n 1); echo $run",
    'run="$(lookalike mine --targets "$t" | tail -n 1)"',
    "cat > run.yaml <<EOF\ntopn: 3\nEOF\nlookalike mine -e run.yaml",
    "for week in 47 48; do lookalike mine --targets $week.csv --pool b; done",
]
#: Command lines that only hold these words.
NAMES = [
    "grep -rn 'lookalike mine' docs",
    "grep lookalike mine",
    "cat lookalike.log",
    "echo lookalike mine; man lookalike mine",
    'echo "$(date): lookalike mine began"',
    'git commit -m "lookalike mine; lookalike mine keeps its folder"',
    'git commit -m "$(cat <<\'EOF\'\nUse "lookalike mine"\n\nlookalike mine, it\'s quick\nEOF\n)"',
    "cat > mine.sh <<'EOF'\nlookalike mine -e run.yaml\nEOF",
    "# lookalike mine -e run.yaml",
    "pip install lookalike mine",
    "uv pip install lookalike mine",
    "command -v lookalike",
    "sudo -E grep lookalike mine",
    "ls | xargs -n1 grep lookalike mine",
    "python train.py -m lookalike mine",
    "sed -n 's/lookalike mine/x/p' notes.txt",
    "for word in lookalike mine; do echo $word; done",
    "lookalike gallery mine",
    "lookalike-next mine",
]


@pytest.mark.parametrize("command", MINES)
def test_a_command_line_that_mines(command):
    assert runs_mine(command)
    assert codes(command, "Mined:     0 images, the 5 nearest of each target, each once") == ["nothing-mined"]


@pytest.mark.parametrize("command", NAMES)
def test_a_command_line_that_only_names_it(command):
    assert not runs_mine(command)
    if not command.startswith("lookalike gallery"):
        assert codes(command, "Mined:     0 images") == []


@pytest.mark.parametrize(
    "command",
    ["embedding image_embeddings -e s.yaml", "docker run --rm img embedding text_embeddings -e s.yaml",
     "X=1 tmm nearest_neighbors", "/venv/bin/lookalike mine --targets a",
     "(cd a; tmm unique_neighbor_matching)", "timeout 5 lookalike check run"],
)  # fmt: skip
def test_commands_of_ours_are_known(command):
    assert codes(command, "Killed") == ["out-of-memory"]


@pytest.mark.parametrize(
    "command",
    ["grep -rn tmm docs", "cat lookalike.md", "python train.py", "echo embedding", "cd x && tail -n 5 lookalike.log"],
)
def test_commands_of_others_are_left_alone(command):
    assert codes(command, "CUDA out of memory\nPermission denied") == []


@pytest.mark.parametrize("command", ["cat lookalike.log", "cd x && grep -v INFO tmm.log | tail -n 3", "git show HEAD"])
def test_what_was_printed_at_another_time_is_not_judged(command):
    assert codes(command, "CUDA out of memory\nExecution status: FAIL") == []


@pytest.mark.parametrize("text", ['"' * 50_001, "$(" * 10_000, "'\"`\\" * 5_000, "<<A\n" * 20_000, "env -a " * 15_000])
def test_no_command_line_is_too_strange(text):
    assert not runs_mine(text)


def test_every_command_can_be_told_behind_a_wrapper():
    """A new command of lookalike has to be put where `docker run IMAGE lookalike COMMAND` is read."""
    for name in typer.main.get_command(app).commands:
        assert calls(f"docker run image lookalike {name} x") == [("lookalike", name, "x")]


def test_what_mine_prints_is_recognised(board_run, run_command, tmp_path):
    """Its own lines, from the real command."""
    _, stdout, stderr = board_run
    assert codes("lookalike mine", stdout) == ["set-aside"]
    assert set(codes("lookalike mine", stdout + stderr)) == {"set-aside", "overlap", "clamped", "filter-off"}
    (tmp_path / "none.csv").write_text("filepath\n")
    (tmp_path / "gone.txt").write_text("gone.png\n")
    for targets, code in (((), "missing-setting"), (("--targets", "none.csv"), "no-rows"),
                          (("--targets", "gone.txt"), "missing-images")):  # fmt: skip
        done = run_command("lookalike", "mine", *targets, "--pool", "gone.txt", cwd=tmp_path)
        assert codes("lookalike mine", done.stdout + done.stderr) == [code], done.stderr


def test_a_script_is_known_by_the_status_line():
    assert codes("bash mine_all.sh", "Out of memory\nExecution status: FAIL\n") == ["failed", "out-of-memory"]
    assert codes("bash mine_all.sh", "Images set aside: 0\nExecution status: PASS\n") == []


def test_a_filter_that_left_no_line_in_the_summary_was_off():
    summary = "Summary:\n  Target queries: 4\n  Unique items saved: 7\nExecution status: PASS\n"
    assert codes("tmm nearest_neighbors filter_by_label=True topn=3", summary) == ["filter-off"]
    assert codes("tmm nearest_neighbors topn=3", summary) == []
    ran = summary.replace(
        "  Unique", "  After label mismatch filtering: kept 7/9 pairs, dropped 2 mismatches\n  Unique"
    )
    assert codes("tmm nearest_neighbors filter_by_label=true", ran) == []


def test_what_the_real_commands_print_is_recognised(run_command, tmp_path):
    """The messages are the commands' own, so that a changed message is noticed."""
    random = [[1.0, 0.0, 0.5, 0.2], [0.1, 1.0, 0.0, 0.3]]
    write_embeddings(tmp_path / "pool.parquet", random, who=identity())
    write_embeddings(tmp_path / "targets.parquet", random, labels=["a", "b"], who=identity())
    write_embeddings(tmp_path / "other.parquet", random, who=identity(weights="c" * 64))
    tables = ("source_parquet=pool.parquet", "target_parquet=targets.parquet", "output_parquet=out/mined.parquet")
    cases = {
        ("tmm", "nearest_neighbors", *tables[:2]): {"failed", "missing-setting"},
        ("tmm", "nearest_neighbors", *tables, "topm=3"): {"failed", "unknown-setting"},
        ("tmm", "nearest_neighbors", *tables, "source_parquet=none.parquet"): {"failed", "missing-file"},
        ("tmm", "nearest_neighbors", *tables, "source_parquet=other.parquet"): {"failed", "encoder-mismatch"},
        ("tmm", "nearest_neighbors", *tables, "topn=9", "filter_by_label=true"): {"clamped", "filter-off"},
        ("tmm", "nearest_neighbors", *tables, "topn=1", "distance_threshold=0", "source_embed_column_name=no"): {
            "failed", "missing-column",
        },
    }  # fmt: skip
    for words, expected in cases.items():
        done = run_command(*words, cwd=tmp_path)
        found = codes(" ".join(words), done.stdout + "\n" + done.stderr)
        assert set(found) == expected, (words, done.stdout, done.stderr)


# The report's surroundings and sections


def test_artifacts_beside_the_report(run):
    assert say("artifacts", written(run.report)) == "Mining_Report.md: the 7 files of the run are there"
    run.mined.unlink()
    run.mining_spec.write_text("")
    run.pool.write_bytes(run.pool.read_bytes()[:-4])
    said = say("artifacts", written(run.report))
    assert [line.split()[2] for line in said.splitlines() if line.startswith("error")] == [
        "mining_spec.yaml:", "source_embeddings.parquet:", "mined.parquet:",
    ]  # fmt: skip


def test_sections_of_the_report(run):
    assert say("sections", written(run.report)).startswith("Mining_Report.md: all seven sections are there, ")
    text = run.report.read_text().replace("## Inputs", "## Data").replace("Match:** yes", "Match:** no")
    run.report.write_text(text)
    said = say("sections", written(run.report))
    assert "has no section '## Inputs'" in said
    assert "says 'Match: no" in said


def test_other_files_are_nobodys_business(run, transcript):
    for path in (run.path / "notes.md", run.path / "My_Mining_Report.md", run.path / "Mining_Report.md.bak", run.path):
        for name in ("artifacts", "sections", "package"):
            assert say(name, written(path, transcript_path=str(transcript))) == ""
    events = [
        shell(f"cat {run.report}", str(run.report)),
        shell("grep -rn 'lookalike mine' docs", str(run.path)),
        shell("lookalike mine --help", "Usage: lookalike mine"),
        shell("lookalike mine -e run.yaml --dry-run", f"Nothing was written.\n{run.path.parent / 'planned'}"),
        shell("lookalike mine -e run.yaml", str(run.path.parent)),
        shell("lookalike mine -e run.yaml", "run", cwd=str(run.path.parent)),
        shell("lookalike mine -e run.yaml", f"{run.path}\0\n/{'a/' * 5000}"),
    ]
    for name in ("artifacts", "sections", "package"):
        for event in events:
            assert say(name, {**event, "transcript_path": str(transcript)}) == "", event["tool_input"]
    assert not run.config.exists()
    assert not run.transcript.exists()


def test_a_relative_path_starts_where_the_agent_stands(run):
    event = written("run/Mining_Report.md", cwd=str(run.path.parent))
    assert say("artifacts", event) == "Mining_Report.md: the 7 files of the run are there"


# A run that `lookalike mine` made in the agent's shell


def test_the_run_is_known_by_a_check_of_the_same_command_line(board_run, run_command, transcript):
    """As the README does it: the folder goes into a variable, and only `check` prints it."""
    folder, *_ = board_run
    checked = run_command("lookalike", "check", folder.path, cwd=folder.path.parent).stdout
    line = 'run=$(lookalike mine -e run.yaml | tail -n 1)\nlookalike check "$run"'
    for more in ("", "done\n"):
        event = shell(line, checked + more, transcript_path=str(transcript))
        assert say("artifacts", event) == "Mining_Report.md: the 7 files of the run are there"
        assert say("sections", event).startswith("Mining_Report.md: all seven sections are there, ")
    assert say("artifacts", shell(f"lookalike check {folder.path}", checked)) == "", "it may be another session's run"


def test_targets_that_were_left_out_are_no_failure(run_command, images, clip_snapshot, tmp_path):
    """A default run of the real command over a pool that holds its targets."""
    words = ("--targets", images, "--pool", images, "--model", "CLIP", "--model-path", clip_snapshot, "scoring=lda")
    done = run_command("lookalike", "mine", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = codes("lookalike mine", done.stdout + done.stderr)
    assert "left-out" in found
    assert "overlap" not in found


def test_the_run_of_a_shell_command_is_checked_and_packaged(board_run, transcript):
    """What the real command prints, as an agent's shell hands it on."""
    folder, stdout, stderr = board_run
    event = shell("cd data && uv run lookalike mine -e run.yaml", stdout, stderr, transcript_path=str(transcript))
    shutil.rmtree(folder.config)
    assert call("artifacts", event) == "Mining_Report.md: the 7 files of the run are there\n"
    assert call("sections", event).startswith("Mining_Report.md: all seven sections are there, ")
    assert "only you can read it" in call("package", event)
    assert folder.transcript.read_bytes() == transcript.read_bytes()
    assert (folder.config / "settings.json").is_file()
    assert {finding.rule for finding in check_run(folder.path)} <= {"path-missing"}  # relative paths
    folder.mined.rename(folder.path / "away.parquet")
    said = json.loads(call("artifacts", event, "--for-agent"))["hookSpecificOutput"]["additionalContext"]
    assert "mined.parquet: is missing" in said
    (folder.path / "away.parquet").rename(folder.mined)


@pytest.mark.parametrize("rest", ["", "0 errors, 0 warnings in x\n", "/elsewhere\n"])
def test_the_run_folder_is_the_last_line_or_that_of_the_report(run, rest):
    """Another command may have printed after it."""
    stdout = f"Mined:     3 images\nReport:    {run.report}\nGallery:   {run.gallery}\n{run.path}\n{rest}"
    assert say("artifacts", shell("lookalike mine -e run.yaml; other", stdout)).startswith("Mining_Report.md: the 7")
    alone = shell("run=$(lookalike mine -e run.yaml | tail -n 1); echo $run", f"{run.path}\n")
    assert say("artifacts", alone).startswith("Mining_Report.md: the 7")
    run.report.unlink()
    assert "Mining_Report.md: is missing" in say("artifacts", alone)


# Packaging


@POSIX
def test_the_run_is_packaged_when_the_report_is_written(run, transcript):
    said = call("package", written(run.report, transcript_path=str(transcript)))
    assert "it can hold secrets, and only you can read it" in said
    assert {path.name for path in run.config.iterdir()} == {
        "embedding_spec.yaml", "mining_spec.yaml", "settings.json", "skill.json",
    }  # fmt: skip
    assert (run.config / "mining_spec.yaml").read_bytes() == run.mining_spec.read_bytes()
    settings = json.loads((run.config / "settings.json").read_text())
    assert settings["settings"]["knn_metric"] == "cosine"
    assert settings["model_path"] == "acme/tiny-clip"
    assert set(json.loads((run.config / "skill.json").read_text())) == {"lookalike", "skill", "skill_version"}
    assert run.transcript.read_bytes() == transcript.read_bytes()
    assert stat.S_IMODE(run.transcript.stat().st_mode) == 0o600
    # Again, when the session went on: the copy is a new one, and private from its first byte on.
    transcript.write_text("{}\n")
    run.transcript.chmod(0o644)
    call("package", written(run.report, transcript_path=str(transcript)))
    assert run.transcript.read_text() == "{}\n"
    assert stat.S_IMODE(run.transcript.stat().st_mode) == 0o600
    assert not list(run.path.rglob(".*")), "no temporary file is left"


@pytest.mark.parametrize("value", ["0", "false", "NO"])
def test_the_transcript_can_be_left_out(run, transcript, value):
    event = written(run.report, transcript_path=str(transcript))
    assert "was left out" in call("package", event, env={"LOOKALIKE_KEEP_TRANSCRIPT": value})
    assert not run.transcript.exists()
    assert run.config.is_dir()


def test_a_transcript_that_is_not_there_is_a_line_of_text(run, tmp_path):
    said = say("package", written(run.report, transcript_path=str(tmp_path / "none.jsonl")))
    assert "the transcript was not copied" in said
    assert "No such file" in said
    assert run.config.is_dir()
    assert not run.transcript.exists()
    said = say("package", written(run.report, transcript_path=str(tmp_path)))
    assert "was not copied" in said
    assert "the transcript" not in say("package", written(run.report))


def test_nothing_is_packaged_where_no_report_was_written(tmp_path, transcript):
    said = say("package", written(tmp_path / "gone" / "Mining_Report.md", transcript_path=str(transcript)))
    assert "nothing was packaged" in said
    assert not (tmp_path / "gone").exists()


@POSIX
def test_links_are_neither_followed_nor_replaced(run, transcript, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("do not touch")
    event = written(run.report, transcript_path=str(transcript))
    # A link in the place of the transcript's copy, of a packaged file, and of a source.
    run.transcript.symlink_to(secret)
    run.config.mkdir()
    (run.config / "skill.json").symlink_to(secret)
    run.mining_spec.unlink()
    run.mining_spec.symlink_to(secret)
    said = say("package", event)
    assert secret.read_text() == "do not touch"
    assert run.transcript.is_symlink()
    assert (run.config / "skill.json").is_symlink()
    assert not (run.config / "mining_spec.yaml").exists()
    assert said.count("link") >= 3
    # A transcript that is a link, and a pipe that would be waited for.
    run.transcript.unlink()
    link, pipe = tmp_path / "link.jsonl", tmp_path / "pipe.jsonl"
    link.symlink_to(secret)
    os.mkfifo(pipe)
    for path in (link, pipe):
        assert "was not copied" in say("package", written(run.report, transcript_path=str(path)))
    assert not run.transcript.exists()


@POSIX
def test_a_folder_that_is_a_link_is_not_filled(run, transcript, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    run.config.symlink_to(outside)
    assert "is a link" in say("package", written(run.report))
    assert list(outside.iterdir()) == []
    run.report.unlink()
    run.report.symlink_to(transcript)
    assert "symbolic link" in say("package", written(run.report, transcript_path=str(transcript)))
    assert not run.transcript.exists()


def test_packaging_without_a_record(run):
    """A run that was made with the two drop-in commands has none."""
    run.record.unlink()
    (line,) = package_run(run)
    assert line.endswith("embedding_spec.yaml, mining_spec.yaml, skill.json")
    run.record.write_text("{")
    assert any("settings.json: is damaged" in line for line in package_run(run))


@POSIX
def test_a_folder_that_cannot_be_written(run, locked):
    with locked(run.path) as path:
        assert "not packaged" in say("package", written(path / run.report.name))
