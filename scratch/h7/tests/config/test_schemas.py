"""The schemas are the only home of a default: public functions take theirs from there."""

import inspect
from dataclasses import fields

import pytest

import lookalike
from lookalike.config.schemas import (
    MISSING,
    ImageEmbeddingsConfig,
    NearestNeighborsConfig,
    RunConfig,
    UniqueNeighborMatchingConfig,
    settings_of,
)

FUNCTIONS = [
    (lookalike.embed_images, ImageEmbeddingsConfig),
    (lookalike.mine, NearestNeighborsConfig),
    (lookalike.unique_neighbors, UniqueNeighborMatchingConfig),
    (lookalike.run, RunConfig),
]
every = pytest.mark.parametrize(
    ("function", "schema"), FUNCTIONS, ids=["embed_images", "mine", "unique_neighbors", "run"]
)
#: Parameters that take Python objects, which no YAML file can hold.
PYTHON_ONLY = {"exclude_paths"}


@every
def test_defaults_of_the_function_are_those_of_the_schema(function, schema):
    """Every setting is a parameter of the public function, with the schema's default; what must be given has none."""
    parameters = inspect.signature(function).parameters
    expected = {f.name: inspect.Parameter.empty if f.default == MISSING else f.default for f in fields(schema)}
    assert {name: parameter.default for name, parameter in parameters.items() if name not in PYTHON_ONLY} == expected


@every
def test_only_the_settings_that_must_be_given_are_positional(function, schema):
    """Optional settings are keywords, so that adding one breaks nobody."""
    positional = [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    ]
    assert positional == [f.name for f in fields(schema) if f.default == MISSING]


@every
def test_settings_of_describes_every_field(function, schema):
    """Every setting has a type and a sentence of help."""
    settings = settings_of(schema)
    assert [setting.key for setting in settings] == [f.name for f in fields(schema)]
    assert {setting.type for setting in settings} <= {"str", "str | None", "int", "float", "bool"}
    assert all(len(setting.help) > 10 for setting in settings)


@pytest.mark.parametrize(
    "values",
    [
        {"batch_size": 0},
        {"batch_size": -4},
        {"max_pixels": 0},
        {"max_bytes": 0},
        {"retries": -1},
        {"time_limit": 0.0},
        {"time_limit": float("nan")},
        {"on_error": "ignore"},
        {"exif": ""},
        {"bit_depth": "8"},
    ],
    ids=str,
)
def test_image_embeddings_that_cannot_be_right(values):
    """A value out of range is refused, and the setting is named."""
    with pytest.raises(lookalike.ConfigError, match=next(iter(values))):
        ImageEmbeddingsConfig(**values).validate()


@pytest.mark.parametrize(
    "values",
    [{"topn": 0}, {"knn_metric": "l2"}, {"knn_metric": "Cosine"}, {"distance_threshold": float("nan")}],
    ids=str,
)
def test_nearest_neighbors_that_cannot_be_right(values):
    """A value out of range is refused, and the setting is named."""
    with pytest.raises(lookalike.ConfigError, match=next(iter(values))):
        NearestNeighborsConfig(**values).validate()


@pytest.mark.parametrize("schema", [ImageEmbeddingsConfig, NearestNeighborsConfig, RunConfig])
def test_defaults_are_valid(schema):
    """The defaults themselves pass."""
    schema().validate()


@pytest.mark.parametrize(
    ("word", "on"),
    [("true", True), ("True", True), (" YES\n", True), ("1", True), ("false", False), ("", False), ("y", False)],
)
def test_words_that_switch_the_label_filter_on(word, on):
    """`true`, `1` and `yes` in any case, and nothing else."""
    assert NearestNeighborsConfig(filter_by_label=word).filters_by_label == on


def test_label_filter_as_a_boolean(tmp_path):
    """A notebook user may write `filter_by_label=True`; what is refused then is the missing file, not the value."""
    with pytest.raises(lookalike.TableError, match="does not exist"):
        lookalike.mine(tmp_path / "a.parquet", tmp_path / "b.parquet", tmp_path / "c.parquet", filter_by_label=True)
