"""The settings of `lookalike mine`: both steps, what may not be mined, and the run itself."""

from __future__ import annotations

from dataclasses import dataclass, fields

from lookalike.config.schemas.embedding import ImageEmbeddingsConfig, TextEmbeddingsConfig, box_columns
from lookalike.config.schemas.fields import MISSING, at_least, one_of, same, setting
from lookalike.config.schemas.mining import NearestNeighborsConfig
from lookalike.config.schemas.search import LEAST_MEMORY, SEARCH_DEVICE
from lookalike.errors import ConfigError


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
