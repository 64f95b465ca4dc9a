"""What the drop-in contract, section 5, asks of `Mining_Report.md`, read from the text alone."""

import re

#: Section titles with words that each must hold, from the contract; written here anew, not taken from the code.
SECTIONS = {
    "Verdict": ("targets", "mined", "encoder", "topn"),
    "Inputs": ("target_parquet", "source_pool", "rows", "has label", "converted from CSV"),
    "Encoder Consistency": ("model", "model_path"),
    "Mining Run": (
        *("topn", "knn_metric", "filter_by_label", "no-op", "lookalike mine"),
        *("Target queries", "Similar items per query", "Total pairs", "Duplicates removed", "Unique items saved"),
    ),
    "Per-Label Breakdown": ("label", "targets", "mined", "best", "median", "nothing"),
    "Output Sanity": ("mined.parquet", "filepath: string", "on disk", "encoding"),
    "Recommended Actions": ("augment", "mined.parquet", "exhausted", "no-op", "unrelated"),
}


def sections(text):
    """The `##` sections: title -> body."""
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    assert len(parts) % 2
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def table(body, first):
    """The rows of the table whose first column is headed `first`: dicts of stripped cells."""
    lines = body.splitlines()
    start = next(number for number, line in enumerate(lines) if re.match(rf"\| {re.escape(first)} ", line))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        assert len(line) == len(lines[start]) or not line.isascii(), "not aligned"
        rows.append([cell.strip().replace("\\", "") for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


def check_report(text, match="Match: yes"):
    """The whole of section 5."""
    found = sections(text)
    assert list(found) == list(SECTIONS)
    for title, words in SECTIONS.items():
        body = found[title]
        assert len([word for word in body.split() if re.search(r"\w", word)]) >= 30, title
        for word in words:
            assert word.lower() in body.lower(), f"{title}: {word}"
    assert match in found["Encoder Consistency"]
    assert (match == "Match: yes") == ("Match: yes" in text)
    assert not re.search(r"[^\n]\n#", text), "a heading without a blank line before it"
    assert "\n\n\n" not in text
    # Counted both ways: the bars of tables are words to `split` and none to a reader.
    assert len(text.split()) <= 1200
    assert len([word for word in text.split() if re.search(r"\w", word)]) >= 600
    headline = next(line for line in found["Verdict"].splitlines() if line)
    assert re.fullmatch(r"\*\*.+\*\*", headline)
    return found
