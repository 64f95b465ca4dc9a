"""A small report as the contract wants it, and run folders that have everything."""

from PIL import Image

from lookalike.workflow.checks.summary import read_summary
from support.runs import make_run

FILLER = "The sentence says nothing about the run and is here so that the section has the length that readers want. "


def report_text(targets, mined, filler=4):
    """A report whose verdict has these numbers; `filler` sentences of twenty words stand in every section."""
    padding = FILLER * filler
    rows = ("| | target_parquet | source_pool |", "|---|---|---|", "| rows | 4 | 20 |", "| label | yes | yes |")
    table = "\n".join([*rows, "| converted | no | no |"])
    return f"""# Mining report

## Verdict
{targets} targets, {mined} mined images, topn 3, encoder CLIP. {padding}

## Inputs
{table}
{padding}

## Encoder Consistency
model CLIP, model_path acme/tiny-clip for both. **Match:** yes. {padding}

## Mining Run
```
## this is a comment in a block of code
tmm nearest_neighbors topn=3 knn_metric=cosine filter_by_label=false
```
The label filter was not a no-op. {padding}

## Per-Label Breakdown
Each label with its targets and mined rows. ![Distances](plots/distances.png) {padding}

## Output Sanity
`mined.parquet` has one column filepath, the first paths exist, encoding is UTF-8. {padding}

## Recommended Actions
Augment with `mined.parquet`. {padding}
"""


def finish(run):
    """Add what other commands make of a run: report, gallery, plots."""
    summary, _ = read_summary(run.summary)
    run.gallery.write_text("<!doctype html><title>a gallery</title></html>\n", encoding="utf-8")
    run.plots.mkdir()
    for name in ("distances", "labels", "map"):
        Image.new("RGB", (4, 4)).save(run.plots / f"{name}.png")
    run.report.write_text(report_text(summary.numbers["targets"], summary.numbers["unique"]), encoding="utf-8")
    return run


def make_finished_run(folder, **settings):
    """`make_run`, with a report, a gallery and plots."""
    return finish(make_run(folder, **settings))
