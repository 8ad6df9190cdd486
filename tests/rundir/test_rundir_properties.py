"""Round trips of configurations and checkpoints, older layouts, and files with any content."""

import json
import tempfile
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inference.backend.files import pack, unpack
from inference.elbo.estimators import ESTIMATORS
from inference.errors import UserError
from inference.rundir import schema
from inference.rundir.checkpoint import NOT_IN_DIGEST, config_digest
from inference.rundir.config import MODES, TrainConfig, defaults
from inference.rundir.run_config import MODES_BEFORE, RENAMED, RunConfig
from ppl_models import MODELS
from tests.support import same

PATH = Path("config.json")
SHAPES = {"vae": (1, 8, 8), "ssvae": (1, 8, 8), "vae2d": (2,), "vqvae": (3, 32, 32)}
POSITIVE = st.floats(1e-9, 1e9, allow_subnormal=False)
COUNT = st.integers(1, 10**6)
# The settings of `TrainConfig`, in their range.
SETTINGS: dict[str, st.SearchStrategy[Any]] = {
    **{"steps": COUNT, "batch_size": COUNT, "accumulate": COUNT, "eval_every": COUNT, "lr": POSITIVE},
    **{"lr_warmup": st.integers(0, 10**6), "kl_warmup": st.integers(0, 10**6), "weight_decay": POSITIVE},
    **{"clip": st.just(0.0) | st.floats(1e-6, 1e9), "ema": st.floats(0, 1, exclude_max=True)},
    **{"seed": st.integers(0, 2**32 - 1), "particles": COUNT, "compile": st.sampled_from(["auto", *MODES])},
    "schedule": st.sampled_from(["constant", "cosine", "step", "plateau"]),
    "optimizer": st.sampled_from(["adam", "adamw"]),
    "precision": st.sampled_from(["float32", "bfloat16"]),
    "elbo": st.sampled_from(["trace", "mean_field", "enum", "iwae", "iwae_dreg"]),
    "select": st.from_regex(r"[a-z][a-z0-9_]{0,9}", fullmatch=True),
    "early_stopping": st.from_regex(r"[a-z][a-z0-9_]{0,9}(:[1-9][0-9]{0,3})?", fullmatch=True),
    "log": st.just("tensorboard"),
}
TRAIN_CONFIGS = st.builds(TrainConfig, **{name: st.none() | values for name, values in SETTINGS.items()})


@st.composite
def run_configs(draw: st.DrawFn) -> RunConfig:
    """The configuration of a run as `inference.svi` writes it: settings that go together."""
    name = draw(st.sampled_from(sorted(SHAPES)))
    cls, shape = MODELS[name], SHAPES[name]
    chosen = {setting: draw(st.none() | values) for setting, values in SETTINGS.items()}
    chosen["elbo"] = draw(st.sampled_from(cls.estimators))
    longest = (chosen["steps"] or 1_000) // 2
    for warmup in ("lr_warmup", "kl_warmup"):
        chosen[warmup] = chosen[warmup] and min(chosen[warmup], longest)
    drop = {
        "particles": ESTIMATORS[chosen["elbo"]].particles == 1,
        "weight_decay": chosen["optimizer"] != "adamw",
        "early_stopping": chosen["select"] is not None,
        "kl_warmup": not cls.has_kl_weight,
    }
    chosen = {setting: None if drop.get(setting) else value for setting, value in chosen.items()}
    settings = defaults(cls, shape)
    return RunConfig(
        **asdict(TrainConfig(**chosen).resolved(cls, shape)),
        model=name,
        options={option: settings[option] for option in cls.options()},
        data=draw(st.text(max_size=10)),
        data_dir="data",
        checksum="0" * 16,
        observation="0 or 1",
        shape=list(shape),
        classes=draw(st.integers(0, 100_000)),
        scale=draw(st.sampled_from([None, 1, 255, 65535])),
        class_names=draw(st.none() | st.lists(st.text(max_size=5), max_size=3)),
        validation=draw(st.floats(0, 1, exclude_max=True)),
        labelled=draw(st.none() | st.lists(st.integers(0, 10**6), max_size=5)),
        versions={"torch": draw(st.text(max_size=5))},
        threads=draw(st.integers(0, 100)),
        commit=draw(st.none() | st.text(max_size=10)),
        format=schema.FORMAT,
    )


def written(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode()


def test_every_setting_is_tried() -> None:
    assert SETTINGS.keys() == {spec.name for spec in fields(TrainConfig)}


@given(TRAIN_CONFIGS)
def test_settings_survive_json(config: TrainConfig) -> None:
    assert TrainConfig(**json.loads(json.dumps(asdict(config)))) == config


@given(run_configs(), st.dictionaries(st.text(max_size=5).map("x-{}".format), COUNT, max_size=3))
def test_a_configuration_survives_its_file(config: RunConfig, unknown: dict[str, int]) -> None:
    """Keys that this version does not know are ignored."""
    found = schema.config(written(unknown | config.to_json()), PATH)
    assert found == config and found.source is None
    assert found.to_json() == json.loads(written(config.to_json()))
    assert config_digest(found) == config_digest(config)


@given(run_configs())
def test_a_configuration_of_format_2_has_the_same_settings(config: RunConfig) -> None:
    """Its keys and modes have their earlier names, with which the file is written again."""
    before = {new: old for old, new in RENAMED.items()}
    modes = {new: old for old, new in MODES_BEFORE.items()}
    content = {before.get(key, key): value for key, value in config.to_json().items()}
    content |= {"format": 2, "compile": modes.get(config.compile, config.compile)}
    found = schema.config(written(content), PATH)
    assert replace(found, format=schema.FORMAT) == config
    assert found.to_json() == json.loads(written(content))


@given(run_configs(), run_configs())
def test_the_digest_is_of_what_decides_the_run(config: RunConfig, other: RunConfig) -> None:
    """Another machine or more steps do not change it; any other setting does."""
    named = {spec.name for spec in fields(RunConfig)} & NOT_IN_DIGEST
    moved = replace(config, **{name: getattr(other, name) for name in named})
    assert config_digest(moved) == config_digest(config)
    for name in ("lr", "seed", "batch_size", "schedule", "compile", "precision", "ema"):
        value = getattr(other, name)
        changed = config_digest(replace(config, **{name: value})) != config_digest(config)
        assert changed == (value != getattr(config, name)), name


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(run_configs(), st.data())
def test_any_value_of_a_configuration_is_read_or_refused_in_one_line(
    config: RunConfig, data: st.DataObject
) -> None:
    content = config.to_json()
    content[data.draw(st.sampled_from(sorted(content)))] = data.draw(JSON)
    try:
        found = schema.config(written(content), PATH)
    except UserError as error:
        assert "\n" not in str(error) and "config.json" in str(error)
    else:
        assert schema.config(written(found.to_json()), PATH) == found


@given(st.binary(max_size=30) | JSON.map(lambda value: json.dumps(value).encode()))
def test_a_file_with_any_content_is_refused_in_one_line(content: bytes) -> None:
    with pytest.raises(UserError) as caught:
        schema.config(content, PATH)
    assert "\n" not in str(caught.value)


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """Tensors of every type that a checkpoint holds, with any bits."""
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8]))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    count = torch.Size(shape).numel() * dtype.itemsize
    bits = draw(st.binary(min_size=count, max_size=count))
    empty = torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(bits), dtype=dtype).reshape(shape).nan_to_num() if bits else empty


STATES = st.dictionaries(
    st.text(max_size=8),
    st.recursive(
        tensors()
        | st.integers(-(2**63), 2**63)
        | st.floats(allow_nan=False)
        | st.text(max_size=8)
        | st.booleans(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)


@given(STATES, st.data())
def test_a_checkpoint_is_read_as_it_was_written_or_refused(
    state: dict[str, Any], data: st.DataObject
) -> None:
    """Equal bit for bit; with one bit flipped anywhere it is refused by its name."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "checkpoint.pt")
        content = pack(state)
        path.write_bytes(content)
        assert same(unpack(path), state)
        bit = data.draw(st.integers(0, 8 * len(content) - 1))
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"checkpoint\.pt"):
            unpack(path)
