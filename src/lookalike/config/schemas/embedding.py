"""The settings of the commands that embed: images and texts."""

from __future__ import annotations

from dataclasses import dataclass, fields

from lookalike.config.schemas.fields import FALSE_WORDS, MISSING, TRUE_WORDS, at_least, one_of, same, setting
from lookalike.errors import ConfigError

POOLINGS = ("model", "cls", "mean", "gem")
AUGMENTS = ("none", "flip", "rot90")
#: Columns of a box, where `crop` is on and names no others.
BOX_COLUMNS = ("x", "y", "w", "h")
#: A shard is held in memory, and Arrow counts the values of a list column in 31 bits.
_MOST_SHARD_ROWS = 100_000


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
        "",
        "where vectors are kept, so that no image is embedded twice, and what tells copies of an image; empty: the "
        "user's cache folder; off: nowhere",
    )
    cache_bytes: int = setting(10 << 30, "bytes that the cache may hold; what was not used for longest goes first")
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
