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
MODELS = ("CLIP", "SigLIP", "timm")
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
    model: str = setting(MISSING, "CLIP, SigLIP or timm")
    model_path: str = setting(
        MISSING, "Hugging Face id, local snapshot folder, or (timm) a model name or a checkpoint file"
    )
    model_config_path: str = setting("", "training spec of a TAO checkpoint (.pth, .ckpt); ignored with anything else")
    batch_size: int = setting(64, "images per forward pass")
    architecture: str = setting("", "timm model name; needed when model_path is a checkpoint file")
    device: str = setting(
        "auto", "auto (every CUDA device, one process each), cpu, cuda, cuda:N, mps, or several with commas"
    )
    precision: str = setting(
        "fp32",
        "fp32: as the reference; bf16, fp16; auto: bf16 for CLIP and SigLIP where the processor or GPU has it (1.5 to "
        "2 times as fast on a CPU, cosine to fp32 at least 0.9999), fp32 otherwise",
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
    within_label: bool = setting(False, "search among the pool images of a target's label only, so that topn come back")
    device: str = setting("auto", "where to search: auto (the processor), cpu, cuda, cuda:1, several with commas")
    memory_limit: int = setting(2 << 30, "bytes that the search may take; a larger pool is read part by part")

    def validate(self) -> None:
        """Refuse what cannot be right, before any work starts."""
        one_of("knn_metric", self.knn_metric, METRICS)
        at_least("topn", self.topn, 1)
        at_least("memory_limit", self.memory_limit, LEAST_MEMORY)
        if self.distance_threshold != self.distance_threshold:
            raise ConfigError("distance_threshold is not a number (NaN)", hint="give a number, or leave it out")

    @property
    def filters_by_label(self) -> bool:
        """Whether `filter_by_label` holds one of the words that switch it on."""
        return self.filter_by_label.strip().lower() in TRUE_WORDS


@dataclass
class RunConfig:
    """Mine a pool for images like the targets, from two tables to a run folder that people and machines read."""

    targets: str = setting(
        MISSING,
        "the images to find more of: a parquet file or folder, CSV, TSV, JSON Lines (column `filepath`), a text file "
        "of paths, a folder of images, a Visual ChangeNet CSV, or an embedding table",
    )
    pool: str = setting(MISSING, "where to look for them: the same kinds of input")
    out: str = setting(".", "the run folder is made in here, as mining_results/YYYY-MM-DD_HHMMSS")
    run_dir: str = setting("", "exactly this run folder instead, which must be empty or absent")
    model: str = same(ImageEmbeddingsConfig, "model", "SigLIP")
    model_path: str = same(ImageEmbeddingsConfig, "model_path", "google/siglip-base-patch16-224")
    topn: int = same(NearestNeighborsConfig, "topn")
    knn_metric: str = same(NearestNeighborsConfig, "knn_metric", "cosine")
    filter_by_label: str = same(NearestNeighborsConfig, "filter_by_label")
    distance_threshold: float = same(NearestNeighborsConfig, "distance_threshold")
    within_label: bool = same(NearestNeighborsConfig, "within_label")

    images_root: str = setting("", "Visual ChangeNet CSV: the folder that `input_path` starts in; empty: where you are")
    light: str = setting("SolderLight", "Visual ChangeNet CSV: the lighting whose image is taken")
    image_ext: str = setting(".jpg", "Visual ChangeNet CSV: ending of the image files")
    gallery_all: bool = setting(False, "true: the gallery shows every target, in pages, however many there are")

    device: str = same(ImageEmbeddingsConfig, "device")
    batch_size: int = same(ImageEmbeddingsConfig, "batch_size")
    model_config_path: str = same(ImageEmbeddingsConfig, "model_config_path")
    architecture: str = same(ImageEmbeddingsConfig, "architecture")
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
        self.mining("", "", "").validate()
        if self.image_ext and not self.image_ext.startswith("."):
            raise ConfigError(f"image_ext={self.image_ext!r} is not possible", hint="it begins with a dot, like .png")

    def embedding(self, input_parquet: str, output_parquet: str) -> ImageEmbeddingsConfig:
        """The settings of the embedding step of one side."""
        mine = {f.name for f in fields(self)}
        shared = {f.name: getattr(self, f.name) for f in fields(ImageEmbeddingsConfig) if f.name in mine}
        return ImageEmbeddingsConfig(input_parquet=input_parquet, output_parquet=output_parquet, **shared)

    def mining(self, source_parquet: str, target_parquet: str, output_parquet: str) -> NearestNeighborsConfig:
        """The settings of the mining step, on the run folder's own tables, whose vectors are in `embedding`."""
        return NearestNeighborsConfig(
            source_parquet, target_parquet, output_parquet, self.topn, self.knn_metric,
            filter_by_label=self.filter_by_label, distance_threshold=self.distance_threshold,
            within_label=self.within_label, device=self.search_device, memory_limit=self.memory_limit,
        )  # fmt: skip


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


def one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is not in a closed set."""
    if value not in allowed:
        raise ConfigError(f"{key}={value!r} is not possible", hint=f"use one of: {', '.join(allowed)}")


def at_least(key: str, value: int, least: int) -> None:
    """Refuse a number below its least value."""
    if value < least:
        raise ConfigError(f"{key}={value} is not possible", hint=f"{key} must be at least {least}")
