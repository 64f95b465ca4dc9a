"""The settings of `tmm unique_neighbor_matching`."""

from __future__ import annotations

from dataclasses import dataclass

from lookalike.config.schemas.fields import MISSING, at_least, one_of, setting
from lookalike.config.schemas.search import LEAST_MEMORY, METRICS, SEARCH_DEVICE
from lookalike.errors import ConfigError

DETECTION_FORMATS = ("coco", "kitti")


@dataclass
class UniqueNeighborMatchingConfig:
    """Mine a wanted number of pool images: each goes to one target at most, and the targets share them evenly."""

    source_path: str = setting(MISSING, "the pool: an embedding table (or a folder of them)")
    target_path: str = setting(MISSING, "the targets: an embedding table (or a folder of them)")
    output_dir: str = setting(MISSING, "the folder for everything that is written; made where it is missing")
    desired_unique_count: int = setting(MISSING, "how many pool images are wanted")
    allocation_policy: str = setting(
        "global",
        "global: all targets choose from the whole pool; class_stratified: the targets of each rare class choose from "
        "the pool images of that class, and each class has the share that it has among the targets",
    )
    distance_metric: str = setting("euclidean", "euclidean, cosine or manhattan, of vectors of length 1")
    candidate_expansion_factor: int = setting(
        5, "candidates that a target is offered for each image that it may take, in the first pass; the i-th: i times"
    )
    source_embedding_column: str = setting("embedding", "embedding column of the pool")
    target_embedding_column: str = setting("embedding", "embedding column of the targets")
    source_filepath_column: str = setting("filepath", "column of the paths of the pool, and of the final table")
    target_filepath_column: str = setting("filepath", "column of the paths of the targets")
    exclude_path: str | None = setting(
        None,
        "images that are not wanted: an image table, a folder of them, the output_dir of an earlier run, or a "
        "mining_history.json",
    )
    source_detection_file: str | None = setting(None, "annotations of the pool: a COCO file or a KITTI folder")
    target_detection_file: str | None = setting(None, "annotations of the targets: a COCO file or a KITTI folder")
    detection_format: str | None = setting(None, "coco or kitti; needed where there are annotations")
    rare_class_list: str = setting("", "the rare classes, with commas between them; needed for class_stratified")
    save_embeddings: bool = setting(
        False, "true: the tables of the passes have the vectors, and the result gets an embedding table of its own"
    )
    visualize: bool = setting(False, "true: contact sheets of the targets and their images, as PNG")
    exclude_by: str = setting(
        "path", "path: an image is excluded by its path; basename: by its file name, in any folder, as the reference"
    )
    assignment: str = setting(
        "greedy", "greedy: the targets choose in turn, as the reference; optimal: the least total distance of all ways"
    )
    device: str = setting("auto", SEARCH_DEVICE)
    memory_limit: int = setting(2 << 30, "bytes that the search may take; a larger pool is read part by part")

    def validate(self) -> None:
        """Refuse what cannot be right, before any work starts."""
        one_of("allocation_policy", self.allocation_policy, ("global", "class_stratified"))
        one_of("distance_metric", self.distance_metric, METRICS)
        one_of("exclude_by", self.exclude_by, ("path", "basename"))
        one_of("assignment", self.assignment, ("greedy", "optimal"))
        at_least("desired_unique_count", self.desired_unique_count, 1)
        at_least("candidate_expansion_factor", self.candidate_expansion_factor, 1)
        at_least("memory_limit", self.memory_limit, LEAST_MEMORY)
        if self.detection_format:
            one_of("detection_format", self.detection_format, DETECTION_FORMATS)
        stratified = self.allocation_policy == "class_stratified"
        if stratified and not self.rare_classes:
            raise ConfigError(
                "rare_class_list is required with allocation_policy=class_stratified",
                hint="name the classes with commas between them: rare_class_list=person,bicycle",
            )
        for side in ("source", "target") if stratified else ():
            if not getattr(self, f"{side}_detection_file"):
                raise ConfigError(
                    f"{side}_detection_file is required with allocation_policy=class_stratified",
                    hint="give a COCO file, or a folder of KITTI labels",
                )
        if (self.source_detection_file or self.target_detection_file) and not self.detection_format:
            raise ConfigError(
                "detection_format is required where there is a detection file; it is never inferred",
                hint=f"use one of: {', '.join(DETECTION_FORMATS)}",
            )

    @property
    def rare_classes(self) -> tuple[str, ...]:
        """The rare classes, lower-cased, each once, in the order given."""
        names = (name.strip().lower() for name in self.rare_class_list.split(","))
        return tuple(dict.fromkeys(name for name in names if name))
