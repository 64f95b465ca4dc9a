"""Known failures of the commands, as their output shows them: what each means and what to do about it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lookalike.workflow import shell

_STATUS = re.compile(r"^Execution status: (?:PASS|FAIL)\s*$", re.MULTILINE)
#: What is read of a long output, from its end: an error comes last.
_TAIL = 200_000


@dataclass(frozen=True)
class Failure:
    """One known failure.

    Attributes
    ----------
    code:
        Its name.
    signs:
        A regular expression; where it is found in the output, the failure is there.
    meaning:
        What happened.
    action:
        What to do.
    """

    code: str
    signs: str
    meaning: str
    action: str


FAILURES = (
    Failure(
        "failed",
        r"^Execution status: FAIL\s*$",
        "the command failed; its output tables were not written and are not to be used",
        "read the line that begins with `Error:`, mend that, and run the same command again; what was done is kept",
    ),
    Failure(
        "not-installed",
        r"\b(?:embedding|tmm|lookalike): (?:command )?not found|No module named '?lookalike",
        "the command is not installed in this environment",
        "pip install lookalike, or activate the environment that has it",
    ),
    Failure(
        "container",
        r"docker: (?:command )?not found|Cannot connect to the Docker daemon|could not select device driver",
        "the command was to run in a container, and that cannot start here",
        "leave out `docker run ... IMAGE`: `embedding` and `tmm` of lookalike take the same arguments without one",
    ),
    Failure(
        "no-gpu",
        r"nvidia-smi: (?:command )?not found|No CUDA GPUs are available|Found no NVIDIA driver"
        r"|CUDA is not available|not compiled with CUDA|device='(?:cuda|mps)[^']*' is not here",
        "a GPU was asked for, and there is none that PyTorch can use",
        "take device=auto or device=cpu: nothing here needs a GPU; `lookalike doctor` shows the devices",
    ),
    Failure(
        "out-of-memory",
        r"[Oo]ut of memory|Cannot allocate memory|DefaultCPUAllocator: can't allocate|^Killed\s*$",
        "memory ran out",
        "embedding: a smaller batch_size; search: a smaller memory_limit; then the same command again, it goes on",
    ),
    Failure(
        "disk",
        r"No space left on device|Disk quota exceeded|the disk has [\d.]+ GiB free",
        "the disk is full; no half-written table was left behind",
        "make room or choose another output folder; `lookalike cache prune --max-size 5G` makes the cache smaller",
    ),
    Failure(
        "encoder-mismatch",
        r"were written by different encoders|targets have \d+ dimensions .*the pool has \d+"
        r"|Incompatible dimension for X and Y",
        "targets and pool were embedded with different encoders: their distances mean nothing",
        "embed one side again with the other's model and model_path; never mine across encoders",
    ),
    Failure(
        "encoder-unknown",
        r"no encoder identity in ",
        "a table does not say which encoder wrote it, so that both sides fit together is not checked",
        "ask who made it, or embed both sides with lookalike",
    ),
    Failure(
        "filter-off",
        r"has no column 'label': not filtered|filter_by_label is on, and the side of the \w+ has no column 'label'"
        r"|filter_by_label=.* is not one of true, 1, yes"
        r"|[Ll]abel column .*(?:not found|missing)",
        "the label filter was asked for and did not run: mined images may have any label",
        "give both tables a column `label` and mine again, or say in the report that the filter was a no-op",
    ),
    Failure(
        "nothing-mined",
        r"^\s*Unique items saved: 0\s*$|^Mined:\s+0 images\b",
        "nothing was mined: the filters dropped every pair, or every pool image was left out",
        "compare the labels of both sides (spelling), and distance_threshold with the distances in the pair table; "
        "excluded.parquet names what was left out",
    ),
    Failure(
        "missing-column",
        r"has no column '(?!label')|KeyError: '(?:filepath|embedding|label|text)'|No match for FieldRef",
        "a table lacks a column that is needed",
        "rename the column of paths to `filepath`; an embedding table needs `embedding`: embed the images first",
    ),
    Failure(
        "missing-file",
        r"^Error: .*does not exist|FileNotFoundError: ",
        "an input is not where the command looks for it",
        "check the path; relative paths start in the folder where the command runs",
    ),
    Failure(
        "no-images",
        r"none of the \d+ images could be embedded",
        "not one image could be read",
        "look into the reasons in that line: paths may start elsewhere (set root=...), or the share is not mounted",
    ),
    Failure(
        "missing-images",
        r"[1-9]\d* of \d+ image files (?:looked for )?of the (?:targets|pool|images to \w+) are not there",
        "some image files are not where their table says; those are set aside, and without any the run does not start",
        "compare the first path in that line with the disk: relative paths start where the command runs, or in root",
    ),
    Failure(
        "set-aside",
        r"^Images set aside: [1-9]|\b[1-9]\d* images were set aside\b|; [1-9]\d* set aside \(",
        "some images could not be read and are not among the embeddings",
        "look at the quarantine table; after mending the files, give the same command again "
        "(`embedding image_embeddings`: with retry_quarantined=true)",
    ),
    Failure(
        "missing-setting",
        r"MissingMandatoryValue|Missing mandatory value|^Error: lookalike mine needs ",
        "a setting that the user must give was not given",
        "add it as the error says (an option, key=value, or a line in the YAML file after -e); `--help` lists all",
    ),
    Failure(
        "unknown-setting",
        r"unknown key '|Could not override '|is not in struct",
        "a setting has a name that the command does not know",
        "take the name that the error suggests, or one from `--help`",
    ),
    Failure(
        "no-model",
        r"couldn't connect to 'https://huggingface\.co'|OfflineModeIsEnabled|LocalEntryNotFoundError"
        r"|RepositoryNotFoundError|its config\.json cannot be loaded",
        "the model cannot be loaded: a wrong name, or no network",
        "check model_path; without a network give the folder of a local snapshot",
    ),
    Failure(
        "clamped",
        r"topn=\d+ is more than the pool has|Expected n_neighbors <= n_samples",
        "topn is larger than the pool: every target gets the whole pool",
        "take a smaller topn or a larger pool; the result says little about likeness",
    ),
    Failure(
        "zero-vectors",
        r"\d+ zero vectors in the ",
        "some vectors are all zero: their cosine distance is 1 to everything",
        "find those images; they are blank, or their encoder failed",
    ),
    Failure(
        "read-only",
        r"the folder is not writable|Permission denied|Read-only file system",
        "something may not be written or read here",
        "choose another output folder; files that a container made as root need chown",
    ),
    Failure(
        "no-rows",
        r"has no rows: there is no (?:target|pool image)",
        "an input has no rows, so there is nothing to mine; no run folder was made",
        "no targets can be good news (no failures); otherwise look at how that table was made",
    ),
    Failure(
        "overlap",
        r"[1-9]\d* of \d+ targets are in the pool, too[^\n]*: their nearest image is themselves",
        "targets are in the pool, and self_match=keep: their nearest image is themselves, and it is mined",
        "leave self_match=keep out, or tell the user how many mined images are targets",
    ),
    Failure(
        "left-out",
        r"[1-9]\d* of \d+ targets are in the pool, too[^\n]*: they are left out",
        "targets are in the pool; the run left them and their copies out, so that none of them is mined",
        "nothing: tell the user; excluded.parquet names what was left out",
    ),
    Failure(
        "unfinished",
        r"[Tt]he run is not finished; to go on: |run_dir holds an unfinished run",
        "the run was stopped before its end; what is finished is kept in its folder, and there is no report yet",
        "give the command in that line (`lookalike mine --resume RUN`) once the cause is mended; never take its tables",
    ),
    Failure(
        "not-here",
        r"is not in this version",
        "this version has no such action",
        "use one of the actions that the error lists, or update lookalike",
    ),
    Failure(
        "bug",
        r"this is a bug in lookalike",
        "lookalike met something that it does not know",
        "report it with the traceback; do not use the output",
    ),
)


def is_ours(command: str, output: str) -> bool:
    """Whether a command was one of ours: it calls one, or its output has the status line (a script called one).

    What `cat` or `grep` shows was printed at another time, and is not judged.
    """
    return bool(shell.calls(command) or (_STATUS.search(output[-_TAIL:]) and not shell.only_reads(command)))


def known_failures(command: str, output: str) -> list[Failure]:
    """The known failures in the output of a shell command, in the order of the table; none for others' commands."""
    if not is_ours(command, output):
        return []
    tail = output[-_TAIL:]
    found = [failure for failure in FAILURES if re.search(failure.signs, tail, re.MULTILINE)]
    codes = {failure.code for failure in found}
    if "filter-off" not in codes and _filter_left_no_line(command, tail):
        found.append(next(failure for failure in FAILURES if failure.code == "filter-off"))
    return found


def _filter_left_no_line(command: str, output: str) -> bool:
    """Whether the label filter was switched on in the command, and the summary has no line of it.

    That is how the filter is silently off where a table has no labels and nobody logs it.
    """
    switched_on = re.search(r"filter_by_label=['\"]?(?:true|1|yes)\b|--filter-by-label\b", command, re.IGNORECASE)
    mined = re.search(r"^\s*Unique items saved: \d", output, re.MULTILINE)
    ran = re.search(r"label mismatch filtering:|Label filtering:", output)
    return bool(switched_on and mined and not ran)
