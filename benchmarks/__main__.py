"""`python -m benchmarks NAME [options]`: print a table, write `benchmarks/results/NAME.json`."""

from __future__ import annotations

import argparse

from benchmarks import (
    calibrate,
    card,
    cards,
    embed,
    encoders,
    fidelity,
    gallery,
    leakage,
    memory,
    peak,
    search,
    search_card,
    search_stream,
    selection,
    selection_rules,
    selection_scale,
)


def main() -> None:
    """Parse the command line and run one benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="name", required=True)
    embed.add_arguments(commands.add_parser("embed", help="images/s and peak memory against the reference's way"))
    card.add_arguments(commands.add_parser("card", help="images/s on one GPU"))
    cards.add_arguments(commands.add_parser("cards", help="two GPUs against one: embedding and search"))
    encoders.add_arguments(commands.add_parser("encoders", help="every family against its own library, and its speed"))
    fidelity.add_arguments(commands.add_parser("fidelity", help="how near vectors are to the reference's"))
    search.add_arguments(commands.add_parser("search", help="exact search in memory, against other libraries"))
    search_stream.add_arguments(
        commands.add_parser("search-stream", help="exact search of files, and `mine` as a whole")
    )
    search_card.add_arguments(commands.add_parser("search-card", help="seconds of exact search on one GPU"))
    selection.add_arguments(commands.add_parser("selection", help="what the selection finds on real images"))
    selection_rules.add_arguments(
        commands.add_parser("selection-rules", help="near-duplicates, diversity and images to avoid, on real images")
    )
    selection_scale.add_arguments(
        commands.add_parser("selection-scale", help="time and memory of a selection by the size of the pool")
    )
    leakage.add_arguments(commands.add_parser("leakage", help="copies of protected images among real images"))
    calibrate.add_arguments(
        commands.add_parser("calibrate", help="what the thresholds of `lookalike calibrate` do on real images")
    )
    memory.add_arguments(commands.add_parser("memory", help="peak memory of embed_images by the size of the pool"))
    peak.add_arguments(commands.add_parser("peak", help="what the processor can do at most"))
    gallery.add_arguments(
        commands.add_parser("gallery", help="the gallery: time from the command, size, to interactive")
    )
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
