"""`remake_gallery`: the gallery of a finished run once more, and its new digests in the record."""

from __future__ import annotations

from pathlib import Path

from lookalike.reports.gallery import is_page, write_gallery
from lookalike.tables.run_folder import RunFolder, read_record, update_record
from lookalike.workflow.run_state import check_finished


def remake_gallery(run: Path, *, every: bool = False) -> list[Path]:
    """Write the gallery of a finished run again and return its pages.

    Parameters
    ----------
    run:
        The run folder.
    every:
        As of `lookalike.reports.gallery.write_gallery`.

    Raises
    ------
    TableError
        When the folder is no finished run, or cannot be written to.
    ImagesFailed
        When the disk or network that holds the images does not answer, or none of the images can be read and the
        gallery that is there has its pictures.
    """
    folder = RunFolder(run)
    check_finished(folder)
    pages = write_gallery(folder, every=every, keep_pictures=True)
    recorded = {folder.path / name for name in read_record(folder).files if is_page(name, folder)}
    update_record(folder, {*recorded, *pages})
    return pages
