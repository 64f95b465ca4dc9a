"""Section 1 of the drop-in contract: the command line of `embedding` and `tmm`."""

import os
import shutil
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import entry_points

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from support.embeddings import identity, write_embeddings

PASS, FAIL = "Execution status: PASS", "Execution status: FAIL"
ACTIONS = [("embedding", "image_embeddings"), ("tmm", "nearest_neighbors")]
both = pytest.mark.parametrize(("command", "action"), ACTIONS)


def composed(done):
    """The configuration that `--cfg=job` printed."""
    assert (done.returncode, done.last_line) == (0, PASS), done.stderr
    return yaml.safe_load(done.body)


def failed(done):
    """Check how a command fails on a user's mistake; return its message."""
    assert (done.returncode, done.last_line) == (1, FAIL), done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    assert done.stderr.strip(), "a failure must say why"
    return done.stderr


@pytest.fixture
def mining(tmp_path):
    """A folder with a pool, targets and a spec that mines them to `mined.parquet`."""
    write_embeddings(tmp_path / "pool.parquet", [[0, 0], [1, 0], [5, 5]], labels=["a", "b", "a"], who=identity())
    write_embeddings(tmp_path / "targets.parquet", [[0, 0.1]], labels=["b"], who=identity())
    spec = {"source_parquet": "pool.parquet", "target_parquet": "targets.parquet", "output_parquet": "mined.parquet"}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump({**spec, "topn": 2}))
    return tmp_path


@pytest.fixture
def spec(tmp_path):
    """A YAML file with some settings of `tmm nearest_neighbors`."""
    path = tmp_path / "spec.yaml"
    path.write_text("source_parquet: from_yaml.parquet\ntopn: 7\nknn_metric: cosine\n")
    return path


# What a start looks like


@pytest.mark.parametrize("name", ["embedding", "tmm"])
def test_console_script_is_installed(name):
    """Section 1: console scripts are named exactly `embedding` and `tmm`."""
    assert name in {point.name for point in entry_points(group="console_scripts", name=name)}


@both
def test_action_is_the_first_word(run_command, tmp_path, command, action):
    """Section 1: `<category> <action>`, without a `dataset` prefix: the help of the category lists the action."""
    done = run_command(command, "--help", cwd=tmp_path)
    assert (done.returncode, done.last_line) == (0, PASS)
    assert action in done.body
    assert "dataset" in failed(run_command(command, "dataset", action, cwd=tmp_path))


@both
def test_help_lists_every_setting(run_command, tmp_path, command, action):
    """Section 1: `--help` works, names every setting, and ends with the status line."""
    keys = composed(run_command(command, action, "--cfg=job", cwd=tmp_path))
    done = run_command(command, action, "--help", cwd=tmp_path)
    assert (done.returncode, done.last_line) == (0, PASS)
    assert [key for key in keys if f"{key} (" not in done.body] == []


def test_help_needs_no_other_word(run_command, tmp_path):
    """Section 1: `--help` works beside overrides and a spec that does not exist."""
    done = run_command("tmm", "nearest_neighbors", "-e", "none.yaml", "topn=3", "--help", cwd=tmp_path)
    assert (done.returncode, done.last_line) == (0, PASS)
    assert "knn_metric" in done.body


@pytest.mark.parametrize("words", [["--info"], ["--info", "topn=3"], ["--info", "config"], ["topn=3", "--info=config"]])
def test_info(run_command, spec, words):
    """Section 1: Hydra's `--info` works, wherever it stands, and no mining starts."""
    done = run_command("tmm", "nearest_neighbors", "-e", spec, *words, cwd=spec.parent)
    assert (done.returncode, done.last_line) == (0, PASS), done.stderr
    assert "knn_metric: cosine" in done.body


@pytest.mark.parametrize("word", ["-m", "--multirun", "--multi", "hydra.mode=MULTIRUN"])
def test_multirun_is_refused_before_any_work(run_command, mining, word):
    """Section 8: nothing loses data: the jobs of a sweep would write over each other's output."""
    done = run_command("tmm", "nearest_neighbors", "-e", "spec.yaml", "topn=1,2", word, cwd=mining)
    assert word in failed(done)
    assert "output_parquet of its own" in done.stderr
    assert sorted(path.name for path in mining.iterdir()) == ["pool.parquet", "spec.yaml", "targets.parquet"]


# -e, overrides and their order


def test_schema_defaults(run_command, tmp_path):
    """Section 1: `--cfg=job` works without `-e` and prints the schema's defaults; `???` marks what must be given."""
    found = composed(run_command("tmm", "nearest_neighbors", "--cfg=job", cwd=tmp_path))
    expected = {
        "source_parquet": "???",
        "target_parquet": "???",
        "output_parquet": "???",
        "topn": 5,
        "knn_metric": "euclidean",
        "source_embed_column_name": "embedding",
        "target_embed_column_name": "embedding",
        "filter_by_label": "false",
        "distance_threshold": -1.0,
    }
    assert {key: found.get(key) for key in expected} == expected


def test_schema_defaults_of_image_embeddings(run_command, tmp_path):
    """Section 2: the settings of `embedding image_embeddings` and their defaults; more may follow."""
    found = composed(run_command("embedding", "image_embeddings", "--cfg=job", cwd=tmp_path))
    expected = {
        "input_parquet": "???",
        "output_parquet": "???",
        "model": "???",
        "model_path": "???",
        "model_config_path": "",
        "batch_size": 64,
    }
    assert {key: found.get(key) for key in expected} == expected


def test_precedence(run_command, spec):
    """Section 1: schema default < YAML < override."""
    found = composed(run_command("tmm", "nearest_neighbors", "-e", spec, "topn=9", "--cfg=job", cwd=spec.parent))
    assert found["filter_by_label"] == "false"  # default
    assert found["knn_metric"] == "cosine"  # YAML over default
    assert found["topn"] == 9  # override over YAML
    assert found["source_parquet"] == "from_yaml.parquet"


def test_last_override_of_a_key_wins(run_command, tmp_path):
    """Section 1: overrides are Hydra's: of two for one key the later one counts."""
    assert composed(run_command("tmm", "nearest_neighbors", "topn=1", "topn=2", "-c", "job", cwd=tmp_path))["topn"] == 2


@pytest.mark.parametrize(
    "words",
    [
        ["-e", "spec.yaml", "topn=9", "--cfg=job"],
        ["topn=9", "-e", "spec.yaml", "--cfg=job"],
        ["topn=9", "--cfg=job", "-e", "spec.yaml"],
        ["--cfg=job", "-e", "spec.yaml", "topn=9"],
        ["--experiment_spec_file", "spec.yaml", "topn=9", "--cfg=job"],
        ["--experiment_spec_file=spec.yaml", "topn=9", "--cfg=job"],
        ["topn=9", "--cfg", "job", "--experiment_spec_file=spec.yaml"],
        ["-c", "job", "topn=9", "-e", "spec.yaml"],
        ["-e", "spec.yaml", "-c", "job", "topn=9"],
    ],
    ids=" ".join,
)
def test_words_in_any_order(run_command, spec, words):
    """Section 1: `-e` / `--experiment_spec_file`, `--cfg=job` / `-c job` and overrides stand in any order."""
    found = composed(run_command("tmm", "nearest_neighbors", *words, cwd=spec.parent))
    assert (found["topn"], found["knn_metric"]) == (9, "cosine")


def test_spec_path_with_spaces(run_command, tmp_path):
    """Section 8: paths with spaces work, after `-e` too."""
    folder = tmp_path / "my specs"
    folder.mkdir()
    (folder / "a spec, 2.yaml").write_text("topn: 4\n")
    done = run_command("tmm", "nearest_neighbors", "-e", "my specs/a spec, 2.yaml", "-c", "job", cwd=tmp_path)
    assert composed(done)["topn"] == 4


def test_empty_spec(run_command, tmp_path):
    """Section 1: an empty YAML file gives no values."""
    (tmp_path / "spec.yaml").touch()
    assert composed(run_command("tmm", "nearest_neighbors", "-e", "spec.yaml", "-c", "job", cwd=tmp_path))["topn"] == 5


@pytest.mark.parametrize(
    "values",
    [
        ["/data/my images/a b.parquet", " lead and trail ", "prüfung/检查.parquet", "~/x", "$HOME/x"],
        ["it's.parquet", "'abc", "abc'", "'a' b 'c'", "'"],
        ['a"b.parquet', '"abc', 'abc"', '"a" b "c"', '"'],
        ["a,b.parquet", ",", "a=b=c.parquet", "=", "k=v,w=x"],
        ["[a].parquet", "[1,2]", "{a: 1}.parquet", "(a b).parquet", "*?!&%@^|<>;`"],
        ["C:\\data\\x.parquet", "C:\\data\\", "a\\\\", 'a\\"b', "\\'a\\'"],
        ["a: b", "#x #y", "- x", "true", "none"],
        ["1e3", "0123", "2024-01-01", "0x10", ""],
    ],
    ids=["spaces", "quotes", "double quotes", "commas and equals", "brackets", "backslashes", "YAML", "numbers"],
)
def test_override_values_are_taken_as_they_stand(run_command, tmp_path, values):
    """Section 8: override values with spaces, quotes, commas, `=`, brackets and backslashes work."""
    keys = ["source_parquet", "target_parquet", "output_parquet"]
    keys += ["source_embed_column_name", "target_embed_column_name"]
    given = dict(zip(keys, values, strict=True))
    words = [f"{key}={value}" for key, value in given.items()]
    found = composed(run_command("tmm", "nearest_neighbors", *words, "--cfg=job", cwd=tmp_path))
    assert {key: found[key] for key in keys} == given


@pytest.mark.parametrize("quoted", ["'my pool/a, b.parquet'", '"my pool/a, b.parquet"'])
def test_quoted_override(run_command, tmp_path, quoted):
    """Section 1: overrides are Hydra's: a value in Hydra's own quotes loses them."""
    done = run_command("tmm", "nearest_neighbors", "--cfg=job", f"source_parquet={quoted}", cwd=tmp_path)
    assert composed(done)["source_parquet"] == "my pool/a, b.parquet"


@pytest.mark.parametrize(("written", "read"), [("false", "False"), ("true", "True"), ("1", "1"), ("yes", "True")])
def test_string_setting_takes_yaml_booleans_and_numbers(run_command, tmp_path, written, read):
    """Section 1: string fields accept YAML booleans and numbers (`filter_by_label: false`)."""
    (tmp_path / "spec.yaml").write_text(f"filter_by_label: {written}\nsource_embed_column_name: 12\n")
    found = composed(run_command("tmm", "nearest_neighbors", "-e", "spec.yaml", "--cfg=job", cwd=tmp_path))
    assert found["filter_by_label"].lower() in (written, read.lower())
    assert found["source_embed_column_name"] == "12"


@pytest.mark.parametrize(("written", "rows"), [("false", 2), ("true", 1)])
def test_yaml_boolean_does_what_it_says(run_command, mining, written, rows):
    """Section 1: `filter_by_label: false` as a YAML boolean is off, `true` is on."""
    with (mining / "spec.yaml").open("a") as spec:
        spec.write(f"filter_by_label: {written}\n")
    done = run_command("tmm", "nearest_neighbors", "-e", "spec.yaml", cwd=mining)
    assert (done.returncode, done.last_line) == (0, PASS), done.stderr
    assert pq.read_metadata(mining / "mined.parquet").num_rows == rows


# Settings that cannot be right


@both
def test_missing_setting_is_named(run_command, tmp_path, command, action):
    """Section 1: `???` unresolved at run time is MissingMandatoryValue, naming the key."""
    message = failed(run_command(command, action, "output_parquet=x.parquet", cwd=tmp_path))
    first = "input_parquet" if command == "embedding" else "source_parquet"
    assert "MissingMandatoryValue" in message
    assert first in message


def test_missing_mark_in_yaml(run_command, mining):
    """Section 1: `???` in the YAML file marks a value that the user must give; an override gives it."""
    (mining / "spec.yaml").write_text((mining / "spec.yaml").read_text().replace("pool.parquet", "???"))
    message = failed(run_command("tmm", "nearest_neighbors", "-e", "spec.yaml", cwd=mining))
    assert "MissingMandatoryValue" in message
    assert "source_parquet" in message
    done = run_command("tmm", "nearest_neighbors", "-e", "spec.yaml", "source_parquet=pool.parquet", cwd=mining)
    assert done.last_line == PASS


@pytest.mark.parametrize("word", ["topnn=3", "+topnn=3", "++topnn=3", "~topnn"])
def test_unknown_key_in_override(run_command, tmp_path, word):
    """Section 1: unknown keys are rejected, `+key=1` too; the message names the key and the nearest one."""
    message = failed(run_command("tmm", "nearest_neighbors", word, cwd=tmp_path))
    assert "'topnn'" in message
    assert "'topn'" in message


def test_unknown_key_in_yaml(run_command, tmp_path):
    """Section 1: unknown keys are rejected; the message names the file, the key and the nearest one."""
    (tmp_path / "spec.yaml").write_text("knn_metrics: cosine\n")
    message = failed(run_command("tmm", "nearest_neighbors", "-e", "spec.yaml", cwd=tmp_path))
    assert "spec.yaml" in message
    assert "'knn_metrics'" in message
    assert "'knn_metric'" in message


def test_unknown_key_with_cfg(run_command, tmp_path):
    """Section 1: unknown keys are rejected with `--cfg=job` too."""
    assert "batchsize" in failed(run_command("embedding", "image_embeddings", "batchsize=1", "-c", "job", cwd=tmp_path))


@pytest.mark.parametrize("word", ["topn=many", "topn=2.5", "topn=null", "distance_threshold=near", "topn=[1,2]"])
def test_wrong_type_in_override(run_command, tmp_path, word):
    """Section 1: a value of the wrong type is refused, and the message names the key."""
    assert word.split("=")[0] in failed(run_command("tmm", "nearest_neighbors", word, cwd=tmp_path))


@pytest.mark.parametrize("line", ["topn: many", "topn: [1, 2]", "topn:", "distance_threshold: near", "knn_metric:"])
def test_wrong_type_in_yaml(run_command, tmp_path, line):
    """Section 1: a value of the wrong type is refused, and the message names the file and the key."""
    (tmp_path / "spec.yaml").write_text(f"{line}\n")
    message = failed(run_command("tmm", "nearest_neighbors", "-e", "spec.yaml", cwd=tmp_path))
    assert "spec.yaml" in message
    assert line.split(":")[0] in message


@pytest.mark.parametrize(
    "content",
    [b"topn: [1\n", b"\xff\xfe\x00", b"- topn\n", b"topn: 1\ntopn: 2\n", b"a: b: c\n", b"topn: !!python/none\n"],
    ids=["open bracket", "not text", "list", "key twice", "two colons", "foreign tag"],
)
def test_unreadable_spec(run_command, tmp_path, content):
    """Section 8: a failing start prints the status line: an unreadable YAML file is named."""
    (tmp_path / "spec.yaml").write_bytes(content)
    assert "spec.yaml" in failed(run_command("tmm", "nearest_neighbors", "-e", "spec.yaml", cwd=tmp_path))


@pytest.mark.parametrize("value", ["${nowhere}", "${open", "${env:HOME}", "${oc.env:LOOKALIKE_NOT_SET}"])
def test_reference_that_leads_nowhere(run_command, mining, value):
    """Section 8: a failing start prints the status line: a reference in the YAML file that nothing resolves."""
    lines = (mining / "spec.yaml").read_text().splitlines()
    lines = [line for line in lines if not line.startswith("output_parquet")]
    (mining / "spec.yaml").write_text("\n".join([*lines, f"output_parquet: '{value}'", ""]))
    assert "output_parquet" in failed(run_command("tmm", "nearest_neighbors", "-e", "spec.yaml", cwd=mining))


@pytest.mark.parametrize("path", ["none.yaml", "folder"])
def test_spec_that_is_no_file(run_command, tmp_path, path):
    """Section 8: a failing start prints the status line: a spec that does not exist, or is a folder, is named."""
    (tmp_path / "folder").mkdir()
    assert path in failed(run_command("tmm", "nearest_neighbors", "-e", path, "--cfg=job", cwd=tmp_path))


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["nearest_neighbor"],
        ["nearest_neighbors", "-e"],
        ["nearest_neighbors", "word"],
        ["nearest_neighbors", "--nonsense"],
        ["nearest_neighbors", "--cfg=nonsense"],
        ["nearest_neighbors", "--cfg"],
        ["-e", "spec.yaml"],
    ],
    ids=" ".join,
)
def test_failing_start(run_command, tmp_path, words):
    """Section 1: the last line of standard output is the status line, also when the start fails."""
    failed(run_command("tmm", *words, cwd=tmp_path))


@both
def test_no_arguments_names_the_actions(run_command, tmp_path, command, action):
    """Section 8: no arguments is a failing start; the message names the actions."""
    assert action in failed(run_command(command, cwd=tmp_path))


@both
def test_unknown_action_names_the_nearest(run_command, tmp_path, command, action):
    """Section 8: an unknown action is a failing start; the message names the nearest."""
    assert action in failed(run_command(command, action[:-1], cwd=tmp_path))


def test_usage_names_the_command(run_command, tmp_path):
    """Section 1: a message about the command line names the command that the user typed, not a class of ours."""
    message = failed(run_command("tmm", "nearest_neighbors", "--nonsense", cwd=tmp_path))
    assert "NearestNeighborsConfig" not in message
    assert "tmm" in message


# What a run prints and writes


def test_run_that_passes(run_command, mining):
    """Section 1: `Execution status: PASS` with exit status 0; path, row count and column list before it."""
    done = run_command("tmm", "nearest_neighbors", "-e", "spec.yaml", cwd=mining)
    assert (done.returncode, done.last_line) == (0, PASS), done.stderr
    assert "mined.parquet" in done.body
    assert "Rows: 2" in done.lines
    assert "Columns: ['filepath']" in done.lines
    assert done.stdout.count("Execution status") == 1


def test_talk_is_not_on_standard_output(run_command, mining):
    """Section 1: warnings go to standard error; the status line is the last one on standard output."""
    done = run_command("tmm", "nearest_neighbors", "-e", "spec.yaml", "topn=99", cwd=mining)
    assert "WARNING" in done.stderr
    assert "WARNING" not in done.stdout
    assert done.last_line == PASS


def test_run_that_fails(run_command, mining):
    """Section 1: `Execution status: FAIL` with exit status 1, and no output."""
    assert "none.parquet" in failed(
        run_command("tmm", "nearest_neighbors", "-e", "spec.yaml", "source_parquet=none.parquet", cwd=mining)
    )
    assert not (mining / "mined.parquet").exists()


def test_nothing_else_is_written(run_command, mining):
    """Section 1: a run writes its tables and nothing else: no `outputs/`, no log file, no temporary file."""
    before = {path.name for path in mining.iterdir()}
    run_command("tmm", "nearest_neighbors", "-e", "spec.yaml", "--cfg=job", cwd=mining)
    run_command("tmm", "nearest_neighbors", "-e", "spec.yaml", "source_parquet=none.parquet", cwd=mining)
    assert {path.name for path in mining.iterdir()} == before
    run_command("tmm", "nearest_neighbors", "-e", "spec.yaml", cwd=mining)
    new = {path.name for path in mining.iterdir()} - before
    assert new == {"mined.parquet", "mined_pairs.parquet", "mining_summary.txt"}


def test_experiment_specs_folder_is_harmless(run_command, mining):
    """Section 1: nothing depends on `experiment_specs/` in the working directory, and nothing breaks with one."""
    expected = composed(run_command("tmm", "nearest_neighbors", "-e", "spec.yaml", "-c", "job", cwd=mining))
    (mining / "experiment_specs").mkdir()
    for name in ("spec.yaml", "config.yaml", "nearest_neighbors.yaml", "NearestNeighborsConfig.yaml"):
        (mining / "experiment_specs" / name).write_text("topn: 1\nnonsense: true\n")
        if name != "spec.yaml":
            (mining / name).write_text("topn: 1\nnonsense: true\n")
    assert composed(run_command("tmm", "nearest_neighbors", "-e", "spec.yaml", "-c", "job", cwd=mining)) == expected
    done = run_command("tmm", "nearest_neighbors", "-e", "experiment_specs/../spec.yaml", cwd=mining)
    assert (done.returncode, done.last_line) == (0, PASS), done.stderr


# The environment


def test_debug_level_shows_the_traceback(run_command, mining):
    """Section 1: TAO_LOGGING_LEVEL=DEBUG shows the traceback of a user's mistake; the status line stays last."""
    words = ("tmm", "nearest_neighbors", "-e", "spec.yaml", "source_parquet=none.parquet")
    done = run_command(*words, cwd=mining, env={"TAO_LOGGING_LEVEL": "DEBUG"})
    assert (done.returncode, done.last_line) == (1, FAIL)
    assert "Traceback" in done.stderr
    assert "none.parquet" in done.stderr.splitlines()[-2] + done.stderr.splitlines()[-1]
    assert "Traceback" not in run_command(*words, cwd=mining, env={"TAO_LOGGING_LEVEL": "INFO"}).stderr


@pytest.mark.parametrize(
    ("level", "warned"),
    [(None, True), ("INFO", True), ("warning", True), ("ERROR", False), ("Critical", False), ("LOUD", True)],
)
def test_logging_level(run_command, mining, level, warned):
    """Section 1: TAO_LOGGING_LEVEL is honoured, in any case; INFO by default and for a level that is none."""
    words = ("tmm", "nearest_neighbors", "-e", "spec.yaml", "topn=99")
    done = run_command(*words, cwd=mining, env={"TAO_LOGGING_LEVEL": level})
    assert (done.returncode, done.last_line) == (0, PASS), done.stderr
    assert ("clamped" in done.stderr) == warned
    assert ("LOUD" in done.stderr) == (level == "LOUD")


def test_hub_model_from_hf_home(run_command, tmp_path, clip_snapshot, images):
    """Section 1: HF_HOME is honoured: a hub id is found in its cache, with HF_HUB_OFFLINE=1."""
    repository = tmp_path / "hf" / "hub" / "models--acme--tiny-clip"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copytree(clip_snapshot, repository / "snapshots" / ("0" * 40))
    (tmp_path / "list.txt").write_text(f"{images / 'board_00.png'}\n")
    settings = ("input_parquet=list.txt", "output_parquet=out.parquet", "model=CLIP", "model_path=acme/tiny-clip")
    done = run_command("embedding", "image_embeddings", *settings, cwd=tmp_path, env={"HF_HOME": str(tmp_path / "hf")})
    assert (done.returncode, done.last_line) == (0, PASS), done.stderr
    assert pq.read_metadata(tmp_path / "out.parquet").num_rows == 1


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", None])
def test_offline(run_command, tmp_path, variable):
    """Section 1: HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE keep the command from the network; without them it asks."""
    asked = []

    class Hub(BaseHTTPRequestHandler):
        def answer(self):
            asked.append(self.path)
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD = answer  # noqa: N815

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Hub) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        environment = {
            "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_OFFLINE": None,
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            **({variable: "1"} if variable else {}),
        }
        (tmp_path / "list.txt").write_text("a.jpg\n")
        settings = ("input_parquet=list.txt", "output_parquet=out.parquet", "model=CLIP", "model_path=acme/nowhere")
        message = failed(run_command("embedding", "image_embeddings", *settings, cwd=tmp_path, env=environment))
        hub.shutdown()
    assert "acme/nowhere" in message
    assert bool(asked) == (variable is None)


def test_cuda_visible_devices(run_command, tmp_path, clip_snapshot, images):
    """Section 1: CUDA_VISIBLE_DEVICES is honoured: with none visible, no CUDA device is there to use."""
    settings = (f"input_parquet={images}", "output_parquet=out.parquet", "model=CLIP", f"model_path={clip_snapshot}")
    words = ("embedding", "image_embeddings", *settings, "device=cuda")
    message = failed(run_command(*words, cwd=tmp_path, env={"CUDA_VISIBLE_DEVICES": ""}))
    assert "device='cuda'" in message
    assert "cpu" in message


# Ending before the end


@pytest.mark.skipif(os.name == "nt", reason="named pipes and SIGTERM are POSIX")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_signal_in_mid_run(start_command, tmp_path, clip_snapshot, images, number):
    """Section 1: a run that is told to stop ends with FAIL and exit status 1 and leaves no output behind."""
    # Reading the last image waits until this test has opened the pipe: the run is then in its middle. A pipe in the
    # table would be set aside at once; here it stands for a storage that does not answer.
    os.mkfifo(tmp_path / "pipe.jpg")
    paths = [*sorted(map(str, images.iterdir())), f"zip://a.jpg::file://{tmp_path}/pipe.jpg"]
    pq.write_table(pa.table({"filepath": paths}), tmp_path / "in.parquet")
    settings = ("input_parquet=in.parquet", "output_parquet=out/e.parquet", "model=CLIP", f"model_path={clip_snapshot}")
    process = start_command("embedding", "image_embeddings", *settings, "batch_size=2", cwd=tmp_path)
    pipe = open_to_write(tmp_path / "pipe.jpg", process)
    process.send_signal(number)
    time.sleep(0.5)  # the main thread takes the signal while it waits for the image
    os.close(pipe)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 1, stderr
    assert stdout.splitlines()[-1:] == [FAIL]
    assert "Traceback" not in stderr
    assert list((tmp_path / "out").iterdir()) == []


def open_to_write(path, process):
    """Open a named pipe for writing as soon as `process` reads from it."""
    for _ in range(1200):
        try:
            return os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody reads yet
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.1)
    raise AssertionError("the command never read the image")


@pytest.mark.parametrize("unbuffered", ["1", None])
def test_reader_of_standard_output_goes_away(start_command, mining, unbuffered):
    """Section 1: FAIL is exit status 1; where nobody reads standard output any more, without a traceback."""
    words = ("tmm", "nearest_neighbors", "-e", "spec.yaml")
    process = start_command(*words, cwd=mining, env={"PYTHONUNBUFFERED": unbuffered})
    process.stdout.close()
    stderr = process.stderr.read()
    assert process.wait(timeout=120) == 1
    assert "Traceback" not in stderr
