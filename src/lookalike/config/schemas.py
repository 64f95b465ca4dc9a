"""The schema of each drop-in command, as a dataclass: names, types, defaults and meanings.

This is the only place where a default is written. Public functions take theirs from here, Hydra composes
over these classes, and `--help` prints the `help` text of each field.
"""

from __future__ import annotations

from dataclasses import MISSING as NO_DEFAULT
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, TypeVar

from lookalike.errors import ConfigError

T = TypeVar("T")

#: OmegaConf's mark for a value that the user must give.
MISSING: Any = "???"

#: The least `memory_limit` of a search, in bytes: below, blocks would be too small to be fast.
LEAST_MEMORY = 128 << 20
METRICS = ("cosine", "euclidean", "manhattan")
DETECTION_FORMATS = ("coco", "kitti")
POOLINGS = ("model", "cls", "mean", "gem")
AUGMENTS = ("none", "flip", "rot90")
DIVERSITY_METHODS = ("mmr", "facility_location")
SCORINGS = ("auto", "nearest", "density_ratio", "lda")
#: The largest cosine distance.
MOST_COSINE = 2.0
#: Columns of a box, where `crop` is on and names no others.
BOX_COLUMNS = ("x", "y", "w", "h")
#: Help of the device of a search.
SEARCH_DEVICE = (
    "where to search: auto (the processor, or the first CUDA GPU for a large search), cpu, cuda, cuda:1, or several "
    "with commas"
)
#: A shard is held in memory, and Arrow counts the values of a list column in 31 bits.
_MOST_SHARD_ROWS = 100_000
#: Values of a string setting that switch it on; the drop-in contract gives these three, in any case.
TRUE_WORDS = frozenset({"true", "1", "yes"})
FALSE_WORDS = frozenset({"false", "0", "no"})


def setting(default: T, help: str) -> T:
    """One schema field: its default and the sentence that `--help` prints for it."""
    return field(default=default, metadata={"help": help})


def same(schema: type, key: str, default: Any = None) -> Any:
    """A field as another schema has it: its default (unless one is given) and its sentence, written there only."""
    origin = next(f for f in fields(schema) if f.name == key)
    return field(default=origin.default if default is None else default, metadata=dict(origin.metadata))


@dataclass
class ImageEmbeddingsConfig:
    """Embed the images of a table with a pretrained encoder."""

    input_parquet: str = setting(
        MISSING,
        "images to embed: a parquet file or folder, CSV, TSV, JSON Lines (column `filepath`), "
        "a text file of paths, or a folder of images",
    )
    output_parquet: str = setting(MISSING, "where the embedding table goes; parent folders are made")
    model: str = setting(
        MISSING,
        "the family: CLIP, SigLIP, SigLIP2, DINOv2, DINOv3, C-RADIO, timm, OpenCLIP, TAO, ONNX, TorchScript, "
        "ExportedProgram, or that of an installed plug-in; auto: as the model's own config.json says",
    )
    model_path: str = setting(
        MISSING,
        "Hugging Face id, local snapshot folder, a TAO checkpoint (.pth, .ckpt), a checkpoint file with architecture, "
        "the file of an exported model (.onnx, .ts, .pt, .pt2), or (timm) a model name",
    )
    model_config_path: str = setting("", "training spec of a TAO checkpoint (.pth, .ckpt); ignored with anything else")
    batch_size: int = setting(64, "images per forward pass")
    architecture: str = setting(
        "", "timm, OpenCLIP: the library's name of the model; needed when model_path is a checkpoint file"
    )
    pooling: str = setting(
        "model",
        "how tokens or feature maps become one vector: model: as the model does; cls: the class token; mean, gem: the "
        "mean or generalised mean of the patches, where the family allows it",
    )
    layer: int = setting(
        -1,
        "DINOv2, DINOv3, timm: the block (of a convolutional model: the stage) whose output is pooled, counted from 0; "
        "-1: the last",
    )
    normalize: str = setting(
        "auto", "vectors of length 1: auto: as the family's reference (only TAO checkpoints are); true; false"
    )
    image_size: int = setting(
        0,
        "side of the model's input in pixels, with interpolated positions, in steps of its patch; 0: the model's own. "
        "SigLIP2 NaFlex: as many patches as a square of this side has",
    )
    augment: str = setting(
        "none", "the vector is the mean over turned images: none; flip: and its mirror image; rot90: four quarter turns"
    )
    crop: str = setting(
        "false",
        "true: every row is a part of its file, the box of its columns x, y, w, h (pixels from the left upper corner); "
        "or the names of four columns: crop=left,top,width,height",
    )
    trust_remote_code: bool = setting(
        False,
        "true: code that comes with the model runs on this machine: needed for TorchScript and exported programs, and "
        "for C-RADIO models that transformers cannot load by itself",
    )
    device: str = setting(
        "auto", "auto (every CUDA device, one process each), cpu, cuda, cuda:N, mps, or several with commas"
    )
    precision: str = setting(
        "fp32",
        "fp32: as the reference; bf16, fp16; auto: bf16 for CLIP, SigLIP and SigLIP2 where the processor or GPU has "
        "it (1.5 to 4 times as fast on a CPU, cosine to fp32 at least 0.9999), fp32 otherwise",
    )
    runtime: str = setting(
        "torch",
        "what computes the model: torch; openvino: on a CPU, about twice as fast (pip install 'lookalike[openvino]'); "
        "auto: openvino where it is installed and device is a CPU, torch otherwise",
    )
    decoder: str = setting(
        "auto",
        "pillow: as the reference; nvjpeg: plain JPEG files are decoded by the JPEG engines of a CUDA GPU, to the same "
        "pixels, many times faster; auto: nvjpeg where there are such engines",
    )
    on_error: str = setting(
        "quarantine", "quarantine: a bad image is set aside and the run goes on; raise: it ends the run"
    )
    exif: str = setting("ignore", "ignore: EXIF orientation is not applied, as in the reference; apply: it is")
    bit_depth: str = setting(
        "clip",
        "16-bit images: clip at 255, as in the reference; scale: divide by 257, so that 65535 becomes 255",
    )
    max_pixels: int = setting(178_956_970, "an image with more pixels than this is set aside unread")
    shard_rows: int = setting(10_000, "rows that are finished together: a killed run loses at most this many")
    max_bytes: int = setting(1 << 30, "a file with more bytes than this is set aside unread")
    root: str = setting(
        "",
        "a folder or URL: only files inside it are read, links and `..` resolved, and relative paths start in it; "
        "empty: any file is read, and relative paths start in the working directory",
    )
    retries: int = setting(3, "how often a URL that fails for a moment is tried again before it is set aside")
    time_limit: float = setting(60.0, "seconds for reading and decoding one file; one that takes longer is set aside")

    cache_dir: str = setting(
        "", "where vectors are kept, so that no image is embedded twice; empty: the user's cache folder; off: nowhere"
    )
    cache_bytes: int = setting(10 << 30, "bytes that the cache may hold; the least recently used vectors go first")
    verify: str = setting(
        "quick", "quick: path, size and time tell that a file is the one in the cache; content: its bytes do"
    )
    reuse: str = setting(
        "",
        "an earlier embedding table of the same encoder (a parquet file or a folder of them): images that it holds, by "
        "path, are neither read nor embedded again, unless the file was changed after that table was written",
    )
    retry_quarantined: bool = setting(
        False, "true: try only the images that an earlier run of this command set aside, and keep every other row"
    )
    embedding_dtype: str = setting(
        "float32",
        "float32, or float16: half the bytes, with about three decimal digits; an image whose vector does not fit is "
        "set aside",
    )

    def validate(self) -> None:
        """Refuse what cannot be right, before any work starts."""
        one_of("verify", self.verify, ("quick", "content"))
        at_least("cache_bytes", self.cache_bytes, 1)
        one_of("embedding_dtype", self.embedding_dtype, ("float32", "float16"))
        one_of("pooling", self.pooling, POOLINGS)
        at_least("layer", self.layer, -1)
        at_least("image_size", self.image_size, 0)
        one_of("normalize", str(self.normalize).strip().lower(), ("auto", *TRUE_WORDS, *FALSE_WORDS))
        one_of("augment", self.augment, AUGMENTS)
        box_columns(self.crop)
        one_of("precision", self.precision, ("auto", "fp32", "bf16", "fp16"))
        one_of("runtime", self.runtime, ("torch", "openvino", "auto"))
        one_of("decoder", self.decoder, ("auto", "pillow", "nvjpeg"))
        one_of("on_error", self.on_error, ("quarantine", "raise"))
        one_of("exif", self.exif, ("ignore", "apply"))
        one_of("bit_depth", self.bit_depth, ("clip", "scale"))
        at_least("batch_size", self.batch_size, 1)
        at_least("max_pixels", self.max_pixels, 1)
        at_least("shard_rows", self.shard_rows, 1)
        if self.shard_rows > _MOST_SHARD_ROWS:
            raise ConfigError(f"shard_rows={self.shard_rows} is not possible", hint=f"use at most {_MOST_SHARD_ROWS}")
        at_least("max_bytes", self.max_bytes, 1)
        at_least("retries", self.retries, 0)
        if not self.time_limit > 0:  # also refuses NaN
            raise ConfigError(f"time_limit={self.time_limit} is not possible", hint="time_limit must be more than 0")


@dataclass
class TextEmbeddingsConfig:
    """Embed the texts of a table with the text side of an encoder, to be compared with images of that encoder."""

    input_parquet: str = setting(
        MISSING,
        "texts to embed: a parquet file or folder, CSV, TSV, JSON Lines (column `text`), or a text file with a text in "
        "every line",
    )
    output_parquet: str = same(ImageEmbeddingsConfig, "output_parquet")
    model: str = setting(MISSING, "CLIP, SigLIP, SigLIP2 or OpenCLIP; auto: read from the model's own config.json")
    model_path: str = setting(
        MISSING, "Hugging Face id, local snapshot folder, or (OpenCLIP) a checkpoint file with architecture"
    )
    architecture: str = setting("", "open_clip's name of the model, for a checkpoint file with model=OpenCLIP")
    batch_size: int = setting(64, "texts per forward pass")
    normalize: str = setting(
        "auto", "vectors of length 1: auto: as for images of the family (no); true, for images embedded so; false"
    )
    device: str = setting("auto", "auto (a CUDA device where there is one), cpu, cuda, cuda:N or mps")
    precision: str = setting("fp32", "fp32: as the reference; bf16, fp16; auto: fp32")
    shard_rows: int = same(ImageEmbeddingsConfig, "shard_rows")

    def validate(self) -> None:
        """Refuse what cannot be right, before any work starts."""
        self.images().validate()

    def images(self) -> ImageEmbeddingsConfig:
        """The settings of the image side: those of texts where both have them, and otherwise the usual ones."""
        return ImageEmbeddingsConfig(**{f.name: getattr(self, f.name) for f in fields(self)})


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


@dataclass
class ScoringConfig:
    """Which pool images are kept: those most like the targets, with a share for every target, within a budget."""

    scoring: str = setting(
        "auto",
        "nearest: by rank among the targets' neighbours; density_ratio: like the targets and unlike the rest of the "
        "pool; lda: like the mean of the targets; auto: a blend of what finds hidden targets again",
    )
    components: str = setting(
        "auto",
        "leading components of the pool that density_ratio and lda look at; auto: blends 16, 32, 64, 128 and 256",
    )
    topn: int = setting(5, "neighbours per target that set the budget where none is given")
    knn_metric: str = setting("cosine", "of distances and ranks: euclidean, cosine or manhattan")
    candidates: int = setting(20, "nearest pool images of a target that count as its own")
    budget: float = setting(
        0.0, "images to keep: a number, or, below 1, a share of the pool; 0: as many as topn neighbours per target give"
    )
    min_per_target: int = setting(1, "images kept for every target from its own candidates before the rest; 0: none")
    max_per_target: int = setting(0, "images kept for one target at most; 0: no limit")
    max_per_label: int = setting(0, "images kept for the targets of one label at most; 0: no limit")
    filter_by_label: str = setting(
        "false", "true, 1 or yes: search among the pool images of a target's label only, and keep no other"
    )
    distance_threshold: float = setting(
        -1.0, "keep an image only for a target whose distance is at most this; a negative value switches this off"
    )
    min_similarity: float = setting(
        -1.0, "keep an image only if its best cosine to any target is at least this, -1 to 1; -1: off"
    )
    dedup_threshold: float = setting(
        -1.0,
        "keep one image of each group of near-duplicates: images that are linked by a cosine distance of at most this; "
        "0: only what has the same direction; -1: off",
    )
    diversity: float = setting(
        0.0, "how much it counts that the kept images differ from each other, 0 (not at all) to 1 (nothing else does)"
    )
    diversity_method: str = setting(
        "mmr",
        "mmr: each next image unlike those that are kept; facility_location: the kept images stand for all good ones",
    )
    avoid_weight: float = setting(0.5, "how strongly the images to avoid push others away; of density_ratio and lda")
    splits: int = setting(20, "how often auto hides a random half of the targets")
    background: int = setting(
        30_000, "pool images that density_ratio compares with: all of a pool of this size, else a random sample"
    )
    seed: int = setting(0, "of the random halves and of the sample")
    device: str = setting("auto", SEARCH_DEVICE)
    memory_limit: int = setting(2 << 30, "bytes that the search may take; a larger pool is read part by part")

    def validate(self) -> None:
        """Refuse what cannot be right, before any work starts."""
        one_of("scoring", self.scoring, SCORINGS)
        one_of("knn_metric", self.knn_metric, METRICS)
        if self.components != "auto" and not (self.components.isdecimal() and int(self.components) >= 1):
            raise ConfigError(f"components={self.components!r} is not possible", hint="use auto, or a number from 1")
        at_least("topn", self.topn, 1)
        at_least("candidates", self.candidates, 1)
        for key in ("min_per_target", "max_per_target", "max_per_label", "seed"):
            at_least(key, getattr(self, key), 0)
        check_distances(self)
        if self.dedup_threshold != -1 and not 0 <= self.dedup_threshold <= MOST_COSINE:  # also refuses NaN
            raise ConfigError(
                f"dedup_threshold={self.dedup_threshold} is not possible", hint="a cosine distance is 0 to 2; -1: off"
            )
        if not 0 <= self.diversity <= 1:
            raise ConfigError(f"diversity={self.diversity} is not possible", hint="give a number from 0 to 1")
        one_of("diversity_method", self.diversity_method, DIVERSITY_METHODS)
        if not 0 <= self.avoid_weight < float("inf"):
            raise ConfigError(f"avoid_weight={self.avoid_weight} is not possible", hint="give a number from 0")
        at_least("splits", self.splits, 2)
        at_least("background", self.background, 1000)
        at_least("memory_limit", self.memory_limit, LEAST_MEMORY)
        if not 0 <= self.budget < float("inf") or (self.budget > 1 and self.budget != int(self.budget)):
            raise ConfigError(
                f"budget={self.budget} is not possible",
                hint="give a whole number, a share below 1, or 0",
            )
        if self.min_per_target > self.candidates:
            raise ConfigError(
                f"min_per_target={self.min_per_target} is more than candidates={self.candidates}",
                hint="raise candidates, or lower min_per_target",
            )
        if 0 < self.max_per_target < self.min_per_target:
            raise ConfigError(
                f"max_per_target={self.max_per_target} is less than min_per_target={self.min_per_target}",
                hint="raise max_per_target, or lower min_per_target",
            )

    @property
    def filters_by_label(self) -> bool:
        """Whether `filter_by_label` holds one of the words that switch it on."""
        return str(self.filter_by_label).strip().lower() in TRUE_WORDS


@dataclass
class NearestNeighborsConfig:
    """Mine the pool: for every target the nearest pool images, then the unique ones among them."""

    source_parquet: str = setting(MISSING, "the pool: an embedding table (or a folder of them)")
    target_parquet: str = setting(MISSING, "the targets: an embedding table (or a folder of them)")
    output_parquet: str = setting(MISSING, "the mined table; its pair table and mining_summary.txt go beside it")
    topn: int = setting(5, "neighbours per target")
    knn_metric: str = setting("euclidean", "euclidean, cosine or manhattan")
    source_embed_column_name: str = setting("embedding", "embedding column of the pool")
    target_embed_column_name: str = setting("embedding", "embedding column of the targets")
    filter_by_label: str = setting(
        "false", "true, 1 or yes: drop pairs whose labels differ (after the search; nothing refills)"
    )
    distance_threshold: float = setting(
        -1.0, "keep pairs with distance <= threshold; a negative value switches this off, 0 does not"
    )
    min_similarity: float = setting(
        -1.0,
        "keep mined images whose best cosine to any target is at least this, -1 to 1; also writes mined_raw.parquet, "
        "mined_candidates.parquet and knn_summary.csv; -1: off",
    )
    within_label: bool = setting(False, "search among the pool images of a target's label only, so that topn come back")
    scoring: str = same(ScoringConfig, "scoring", "nearest")
    components: str = same(ScoringConfig, "components")
    candidates: int = same(ScoringConfig, "candidates")
    budget: float = same(ScoringConfig, "budget")
    min_per_target: int = same(ScoringConfig, "min_per_target")
    max_per_target: int = same(ScoringConfig, "max_per_target")
    max_per_label: int = same(ScoringConfig, "max_per_label")
    target_weight_column: str = setting(
        "", "a column of the targets with how much each counts in the scoring, from 0, like weakness; empty: all alike"
    )
    dedup_threshold: float = same(ScoringConfig, "dedup_threshold")
    diversity: float = same(ScoringConfig, "diversity")
    diversity_method: str = same(ScoringConfig, "diversity_method")
    avoid_weight: float = same(ScoringConfig, "avoid_weight")
    avoid_parquet: str = setting(
        "", "images to stay away from: an embedding table, with its vectors in the targets' embedding column"
    )
    exclude_path: str | None = same(UniqueNeighborMatchingConfig, "exclude_path")
    splits: int = same(ScoringConfig, "splits")
    background: int = same(ScoringConfig, "background")
    seed: int = same(ScoringConfig, "seed")
    device: str = same(ScoringConfig, "device")
    memory_limit: int = same(ScoringConfig, "memory_limit")

    def validate(self) -> None:
        """Refuse what cannot be right, before any work starts."""
        one_of("knn_metric", self.knn_metric, METRICS)
        at_least("topn", self.topn, 1)
        at_least("memory_limit", self.memory_limit, LEAST_MEMORY)
        check_distances(self)
        if self.selects_by_score:
            self.scored().validate()
        elif self.target_weight_column:
            raise ConfigError(
                "target_weight_column counts in a scoring, and scoring=nearest has none",
                hint="add scoring=auto, or leave it out",
            )

    @property
    def has_floor(self) -> bool:
        """Whether `min_similarity` can drop anything."""
        return self.min_similarity > -1

    @property
    def selects_by_score(self) -> bool:
        """Whether images are scored and kept within a budget, instead of the topn of every target, each once."""
        limited = self.budget or self.max_per_target or self.max_per_label or self.diversity or self.avoid_parquet
        return self.scoring != "nearest" or bool(limited) or self.dedup_threshold >= 0

    def scored(self) -> ScoringConfig:
        """The settings of a selection by score; `within_label` is its label filter."""
        values = {f.name: getattr(self, f.name) for f in fields(ScoringConfig)}
        if self.within_label:
            values["filter_by_label"] = "true"
        return ScoringConfig(**values)

    @property
    def filters_by_label(self) -> bool:
        """Whether `filter_by_label` holds one of the words that switch it on."""
        return self.filter_by_label.strip().lower() in TRUE_WORDS


@dataclass
class BarringConfig:
    """Which pool images may not be mined: unwanted ones, copies of the evaluation set, the targets themselves."""

    exclude: str = setting(
        "",
        "images that are not wanted, by path: image tables, folders, earlier runs, ledgers (mining_history.json); "
        "several with commas",
    )
    protect: str = setting(
        "",
        "the evaluation set, as image or embedding table (several with commas): its images, and copies of them in the "
        "pool (the same path, bytes or pixels; re-encoded, resized, mirrored), are not mined",
    )
    protect_threshold: float = setting(
        -1.0,
        "also bar every pool image within this cosine distance of a protected one, whatever its pixels; negative: the "
        "pixels decide",
    )
    self_match: str = setting(
        "exclude",
        "a target that is in the pool itself, and its copies there: exclude, or keep",
    )
    self_threshold: float = setting(-1.0, "the same as protect_threshold, for the targets")
    leak_reads: int = setting(
        20_000,
        "pool images that may be decoded to compare pixels with the protected ones (and with the targets): a pool of "
        "this size is compared as a whole, of a larger one what is nearest; 0: none",
    )
    device: str = setting("auto", SEARCH_DEVICE)
    memory_limit: int = setting(2 << 30, "bytes that the search may take; a larger pool is read part by part")

    def validate(self) -> None:
        """Refuse what cannot be right, before any work starts."""
        one_of("self_match", self.self_match, ("exclude", "keep"))
        at_least("leak_reads", self.leak_reads, 0)
        at_least("memory_limit", self.memory_limit, LEAST_MEMORY)
        for key in ("protect_threshold", "self_threshold"):
            value = getattr(self, key)
            if not value <= 2:  # also refuses NaN
                raise ConfigError(f"{key}={value} is not possible", hint="a cosine distance is 0 to 2; negative: off")


@dataclass
class RunConfig:
    """Mine a pool for images like the targets, from two tables to a run folder that people and machines read."""

    targets: str = setting(
        MISSING,
        "the images to find more of: a parquet file or folder, CSV, TSV, JSON Lines (column `filepath`), a text file "
        "of paths, a folder of images, a Visual ChangeNet CSV, or an embedding table; or texts that say what to look "
        "for: a table with a column `text` and none `filepath`",
    )
    pool: str = setting(MISSING, "where to look for them: the same kinds of input, but no texts")
    out: str = setting(".", "the run folder is made in here, as mining_results/YYYY-MM-DD_HHMMSS")
    run_dir: str = setting("", "exactly this run folder instead, which must be empty or absent")
    model: str = same(ImageEmbeddingsConfig, "model", "SigLIP")
    model_path: str = same(ImageEmbeddingsConfig, "model_path", "google/siglip-base-patch16-224")
    topn: int = same(NearestNeighborsConfig, "topn")
    knn_metric: str = same(NearestNeighborsConfig, "knn_metric", "cosine")
    filter_by_label: str = same(NearestNeighborsConfig, "filter_by_label")
    distance_threshold: float = same(NearestNeighborsConfig, "distance_threshold")
    min_similarity: float = same(NearestNeighborsConfig, "min_similarity")
    within_label: bool = same(NearestNeighborsConfig, "within_label")
    scoring: str = same(NearestNeighborsConfig, "scoring", "auto")
    components: str = same(NearestNeighborsConfig, "components")
    candidates: int = same(NearestNeighborsConfig, "candidates")
    budget: float = same(NearestNeighborsConfig, "budget")
    min_per_target: int = same(NearestNeighborsConfig, "min_per_target")
    max_per_target: int = same(NearestNeighborsConfig, "max_per_target")
    max_per_label: int = same(NearestNeighborsConfig, "max_per_label")
    target_weight_column: str = same(NearestNeighborsConfig, "target_weight_column")
    dedup_threshold: float = same(NearestNeighborsConfig, "dedup_threshold")
    diversity: float = same(NearestNeighborsConfig, "diversity")
    diversity_method: str = same(NearestNeighborsConfig, "diversity_method")
    avoid_weight: float = same(NearestNeighborsConfig, "avoid_weight")
    avoid: str = setting("", "images to stay away from: the same kinds of input as the targets")
    exclude: str = same(BarringConfig, "exclude")
    protect: str = same(BarringConfig, "protect")
    protect_threshold: float = same(BarringConfig, "protect_threshold")
    self_match: str = same(BarringConfig, "self_match")
    self_threshold: float = same(BarringConfig, "self_threshold")
    leak_reads: int = same(BarringConfig, "leak_reads")
    history: str = setting(
        "",
        "the ledger of a retraining loop (mining_history.json): what earlier iterations mined is left out, and this "
        "run's images are added; made where it is missing",
    )
    iteration: int = setting(0, "number of this iteration in the history; 0: the next")
    splits: int = same(NearestNeighborsConfig, "splits")
    background: int = same(NearestNeighborsConfig, "background")
    seed: int = same(NearestNeighborsConfig, "seed")

    images_root: str = setting("", "Visual ChangeNet CSV: the folder that `input_path` starts in; empty: where you are")
    light: str = setting("SolderLight", "Visual ChangeNet CSV: the lighting whose image is taken")
    image_ext: str = setting(".jpg", "Visual ChangeNet CSV: ending of the image files")
    gallery_all: bool = setting(False, "true: the gallery shows every target, in pages, however many there are")

    device: str = same(ImageEmbeddingsConfig, "device")
    batch_size: int = same(ImageEmbeddingsConfig, "batch_size")
    model_config_path: str = same(ImageEmbeddingsConfig, "model_config_path")
    architecture: str = same(ImageEmbeddingsConfig, "architecture")
    pooling: str = same(ImageEmbeddingsConfig, "pooling")
    layer: int = same(ImageEmbeddingsConfig, "layer")
    normalize: str = same(ImageEmbeddingsConfig, "normalize")
    image_size: int = same(ImageEmbeddingsConfig, "image_size")
    augment: str = same(ImageEmbeddingsConfig, "augment")
    crop: str = same(ImageEmbeddingsConfig, "crop")
    trust_remote_code: bool = same(ImageEmbeddingsConfig, "trust_remote_code")
    precision: str = same(ImageEmbeddingsConfig, "precision")
    runtime: str = same(ImageEmbeddingsConfig, "runtime")
    decoder: str = same(ImageEmbeddingsConfig, "decoder")
    on_error: str = same(ImageEmbeddingsConfig, "on_error")
    exif: str = same(ImageEmbeddingsConfig, "exif")
    bit_depth: str = same(ImageEmbeddingsConfig, "bit_depth")
    max_pixels: int = same(ImageEmbeddingsConfig, "max_pixels")
    max_bytes: int = same(ImageEmbeddingsConfig, "max_bytes")
    shard_rows: int = same(ImageEmbeddingsConfig, "shard_rows")
    root: str = same(ImageEmbeddingsConfig, "root")
    retries: int = same(ImageEmbeddingsConfig, "retries")
    time_limit: float = same(ImageEmbeddingsConfig, "time_limit")
    cache_dir: str = same(ImageEmbeddingsConfig, "cache_dir")
    cache_bytes: int = same(ImageEmbeddingsConfig, "cache_bytes")
    verify: str = same(ImageEmbeddingsConfig, "verify")
    reuse: str = same(ImageEmbeddingsConfig, "reuse")
    embedding_dtype: str = same(ImageEmbeddingsConfig, "embedding_dtype")

    search_device: str = same(NearestNeighborsConfig, "device")
    memory_limit: int = same(NearestNeighborsConfig, "memory_limit")
    target_vectors: str = setting(
        NearestNeighborsConfig.target_embed_column_name,
        "a parquet input of targets with lists of numbers in this column is an embedding table, and taken as it is",
    )
    pool_vectors: str = setting(NearestNeighborsConfig.source_embed_column_name, "the same for the pool")

    def validate(self) -> None:
        """Refuse what cannot be right, before any work starts."""
        self.embedding("", "").validate()
        box_columns(self.crop)
        self.mining("", "", "").validate()
        self.barring().validate()
        at_least("iteration", self.iteration, 0)
        if self.iteration and not self.history:
            raise ConfigError(f"iteration={self.iteration} needs a history", hint="add history=mining_history.json")
        if self.image_ext and not self.image_ext.startswith("."):
            raise ConfigError(f"image_ext={self.image_ext!r} is not possible", hint="it begins with a dot, like .png")

    def embedding(self, input_parquet: str, output_parquet: str) -> ImageEmbeddingsConfig:
        """The settings of the embedding step of one side, whose paths have their boxes already."""
        mine = {f.name for f in fields(self)} - {"crop"}
        shared = {f.name: getattr(self, f.name) for f in fields(ImageEmbeddingsConfig) if f.name in mine}
        return ImageEmbeddingsConfig(input_parquet=input_parquet, output_parquet=output_parquet, **shared)

    def texts(self, input_parquet: str, output_parquet: str) -> TextEmbeddingsConfig:
        """The settings of the embedding step of targets that are texts; they take the first of several devices."""
        mine = {f.name for f in fields(self)}
        shared = {f.name: getattr(self, f.name) for f in fields(TextEmbeddingsConfig) if f.name in mine}
        shared["device"] = self.device.split(",")[0].strip()
        return TextEmbeddingsConfig(input_parquet=input_parquet, output_parquet=output_parquet, **shared)

    def mining(self, source_parquet: str, target_parquet: str, output_parquet: str) -> NearestNeighborsConfig:
        """The settings of the mining step, on the run folder's own tables, whose vectors are in `embedding`."""
        mine = {f.name for f in fields(self)} - {"device"}
        shared = {f.name: getattr(self, f.name) for f in fields(NearestNeighborsConfig) if f.name in mine}
        return NearestNeighborsConfig(
            source_parquet, target_parquet, output_parquet, device=self.search_device, **shared
        )

    def barring(self) -> BarringConfig:
        """The settings of what may not be mined."""
        mine = {f.name for f in fields(self)} - {"device"}
        shared = {f.name: getattr(self, f.name) for f in fields(BarringConfig) if f.name in mine}
        return BarringConfig(device=self.search_device, **shared)


@dataclass
class CalibrateConfig:
    """Propose distance thresholds for a pool and its encoder, from the pool's own distances."""

    knn_metric: str = same(RunConfig, "knn_metric")
    quantile: float = setting(0.99, "the share of the pool images that shall have another one within the threshold")
    sample: int = setting(
        4_000, "images whose nearest other one is looked for among all: all of a pool of this size, or a random sample"
    )
    seed: int = setting(0, "of the sample, and of the random pairs")
    pool_vectors: str = setting(NearestNeighborsConfig.source_embed_column_name, "embedding column of the pool")
    device: str = same(NearestNeighborsConfig, "device")
    memory_limit: int = same(NearestNeighborsConfig, "memory_limit")

    def validate(self) -> None:
        """Refuse what cannot be right, before any work starts."""
        one_of("knn_metric", self.knn_metric, METRICS)
        if not 0 < self.quantile <= 1:  # also refuses NaN
            raise ConfigError(f"quantile={self.quantile} is not possible", hint="give a share above 0, at most 1")
        at_least("sample", self.sample, 100)
        at_least("seed", self.seed, 0)
        at_least("memory_limit", self.memory_limit, LEAST_MEMORY)


@dataclass
class TuneConfig:
    """Try scorings, numbers of neighbours and thresholds on one search, and recommend settings for `lookalike mine`."""

    topn: str = setting("1,2,3,5,10,20", "numbers of neighbours per target to try")
    components: str = setting("16,32,64,128,256", "numbers of leading components of the pool to try")
    threshold: str = setting(
        "auto", "distance thresholds to try: auto (off, and what 90 %, 75 % and 50 % of the pairs are within), off, or "
        "numbers with commas"
    )  # fmt: skip
    knn_metric: str = same(ScoringConfig, "knn_metric")
    target_vectors: str = setting(NearestNeighborsConfig.target_embed_column_name, "embedding column of the targets")
    pool_vectors: str = setting(NearestNeighborsConfig.source_embed_column_name, "embedding column of the pool")
    target_weight_column: str = same(NearestNeighborsConfig, "target_weight_column")
    splits: int = same(ScoringConfig, "splits")
    background: int = same(ScoringConfig, "background")
    seed: int = same(ScoringConfig, "seed")
    device: str = same(ScoringConfig, "device")
    memory_limit: int = same(ScoringConfig, "memory_limit")

    def validate(self) -> None:
        """Refuse what cannot be right, before any work starts."""
        self.scored().validate()
        for key in ("topn", "components"):
            if min(self.numbers(key)) < 1:
                raise ConfigError(f"{key}={getattr(self, key)} is not possible", hint="give whole numbers from 1")
        if any(not value >= 0 for value in self.thresholds or ()):  # also refuses NaN
            raise ConfigError(f"threshold={self.threshold} is not possible", hint="give distances from 0, auto, or off")

    def numbers(self, key: str) -> tuple[int, ...]:
        """A list of whole numbers, ascending, each once."""
        return tuple(sorted({int(value) for value in self._list(key, int)}))

    @property
    def thresholds(self) -> tuple[float, ...] | None:
        """Thresholds to try, beside none; None: those that fit the distances."""
        word = self.threshold.strip().lower()
        if word in ("auto", "off"):
            return None if word == "auto" else ()
        return tuple(sorted({float(value) for value in self._list("threshold", float)}, reverse=True))

    def scored(self) -> ScoringConfig:
        """Everything that is not tried."""
        mine = {f.name for f in fields(self)} - {"topn", "components"}
        return ScoringConfig(**{f.name: getattr(self, f.name) for f in fields(ScoringConfig) if f.name in mine})

    def _list(self, key: str, kind: type[int] | type[float]) -> list[float]:
        words = [word.strip() for word in str(getattr(self, key)).split(",") if word.strip()]
        try:
            values: list[float] = [kind(word) for word in words]
        except ValueError:
            values = []
        if not values:
            raise ConfigError(
                f"{key}={getattr(self, key)!r} is not possible", hint="give numbers with commas between them"
            )
        return values


class Setting(NamedTuple):
    """One row of a schema, as `--help` and the documentation show it."""

    key: str
    type: str
    default: object
    help: str


def settings_of(schema: type) -> list[Setting]:
    """The settings of a schema class, in order."""
    return [
        Setting(f.name, str(f.type), f.default, f.metadata["help"])
        for f in fields(schema)
        if f.default is not NO_DEFAULT
    ]


def box_columns(crop: str) -> tuple[str, ...]:
    """The four columns that the setting `crop` names; none where it is off."""
    word = str(crop).strip()
    if word.lower() in FALSE_WORDS:
        return ()
    if word.lower() in TRUE_WORDS:
        return BOX_COLUMNS
    columns = tuple(name.strip() for name in word.split(","))
    if len(columns) != len(BOX_COLUMNS) or not all(columns):
        raise ConfigError(f"crop={crop!r} is not possible", hint="use true, false, or four columns: crop=x,y,w,h")
    return columns


def one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is not in a closed set."""
    if value not in allowed:
        raise ConfigError(f"{key}={value!r} is not possible", hint=f"use one of: {', '.join(allowed)}")


def at_least(key: str, value: int, least: int) -> None:
    """Refuse a number below its least value."""
    if value < least:
        raise ConfigError(f"{key}={value} is not possible", hint=f"{key} must be at least {least}")


def check_distances(settings: NearestNeighborsConfig | ScoringConfig) -> None:
    """Refuse thresholds that cannot be right."""
    if settings.distance_threshold != settings.distance_threshold:
        raise ConfigError("distance_threshold is not a number (NaN)", hint="give a number, or leave it out")
    if not -1 <= settings.min_similarity <= 1:  # also refuses NaN
        raise ConfigError(f"min_similarity={settings.min_similarity} is not possible", hint="a cosine is -1 to 1")
