"""Settings of a training: what they become, and which values are refused."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from inference.errors import UserError
from inference.rundir import config, kinds, schema
from inference.rundir.config import TrainConfig, default_mode
from inference.rundir.restore import no_larger_than
from ppl_models import HVAE, VAE

SHAPE = (1, 28, 28)


def test_settings_that_are_not_given_follow_from_the_others() -> None:
    found = TrainConfig(steps=400).resolved(VAE, SHAPE)
    assert (found.elbo, found.particles, found.eval_every, found.weight_decay) == ("mean_field", 1, 20, None)
    assert (found.optimizer, found.schedule, found.precision) == ("adam", "constant", "float32")
    assert (found.accumulate, found.lr_warmup, found.kl_warmup, found.clip, found.ema) == (1, 0, 0, 0.0, 0.0)
    assert TrainConfig(steps=7).resolved(VAE, SHAPE).eval_every == 1
    assert TrainConfig(steps=7, eval_every=9).resolved(VAE, SHAPE).eval_every == 7
    assert TrainConfig(steps=7, optimizer="adamw").resolved(VAE, SHAPE).weight_decay == 0.01
    weighted = TrainConfig(steps=7, elbo="iwae")
    assert weighted.resolved(VAE, SHAPE).particles == 50
    assert TrainConfig(steps=7, elbo="iwae", particles=3).resolved(VAE, SHAPE).particles == 3


def test_a_warm_up_of_a_model_is_a_quarter_of_the_steps_at_most() -> None:
    assert HVAE.defaults["kl_warmup"] == 1_500
    found = [TrainConfig(steps=steps).resolved(HVAE, SHAPE).kl_warmup for steps in (8_000, 6_000, 5_999, 100)]
    assert found == [1_500, 1_500, 1_499, 25]
    given = TrainConfig(steps=100, kl_warmup=60).resolved(HVAE, SHAPE)
    assert given.kl_warmup == 60


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"elbo": "trace", "particles": 2}, "trace supports one sample per image"),
        ({"lr_warmup": 9}, "--lr-warmup 9 does not end within 8 steps"),
        ({"kl_warmup": 8}, "--kl-warmup 8 does not end within 8 steps"),
        ({"weight_decay": 0.5}, "weight_decay is 0.5, and only adamw has one"),
        ({"select": "kl", "early_stopping": "bits:3"}, "select is kl, and early_stopping follows bits"),
        ({"elbo": "enum"}, "elbo is 'enum', which VAE does not support"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict, complaint: str) -> None:
    with pytest.raises(UserError) as caught:
        TrainConfig(steps=8, **settings).resolved(VAE, SHAPE)
    assert str(caught.value).startswith(complaint)


def test_a_warm_up_may_end_in_the_last_step() -> None:
    """The rate is full in the last step of its warm-up, and beta in the step after it."""
    found = TrainConfig(steps=8, lr_warmup=8, kl_warmup=7).resolved(VAE, SHAPE)
    assert (found.lr_warmup, found.kl_warmup) == (8, 7)


def test_the_metric_and_the_patience() -> None:
    cases = {
        (None, "constant", None): ("", 0),
        (None, "plateau", None): ("negative_elbo", 0),
        ("kl:7", "plateau", None): ("kl", 7),
        ("kl", "constant", None): ("kl", 5),
        (None, "constant", "bits"): ("bits", 0),
    }
    for (stopping, schedule, select), expected in cases.items():
        found = TrainConfig(early_stopping=stopping, schedule=schedule, select=select)
        assert (found.metric, found.patience) == expected


def test_a_mode_is_the_default_from_its_number_of_steps_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "which", lambda name: name)
    found = {steps: default_mode(steps) for steps in (499, 500, 4_999, 5_000)}
    assert found == {499: "eager", 500: "graph", 4_999: "graph", 5_000: "inductor"}


NAN, INFINITE = float("nan"), float("inf")
COLUMNS = {"names": ["a"], "location": [0], "scale": [1.0]}
WORDS = {"unit": "words", "entries": ["a"], "length": 1}
KINDS = {  # values that fit, and others
    "NUMBER": ([-1, 0.5], [True, NAN, INFINITE, "1"]),
    "NOT_NEGATIVE": ([0, 0.5], [-1e-9, NAN, False]),
    "POSITIVE": ([1e-9, 3], [0, -1, True, "x"]),
    "CLIP": ([0, 1e-6, 5], [0.9e-6, -1, NAN]),
    "FRACTION": ([0, 0.999], [1, 1.0, -0.1]),
    "WHOLE": ([0, 7], [-1, 1.0, True]),
    "COUNT": ([1, 7], [0, True, 1.0]),
    "SIZE": ([1, 10**6], [0, 10**6 + 1]),
    "SEED": ([0, 2**32 - 1], [-1, 2**32]),
    "CLASSES": ([0, 100_000], [100_001, -1]),
    "SHAPE": ([[1], [3, 32, 32]], [[0], [1, 1, 1, 1], 3, [1.0]]),
    "INDICES": ([[], [0, 5], (1,)], [[-1], [0.5], "12"]),
    "COLUMNS": ([COLUMNS], [COLUMNS | {"scale": [0]}, COLUMNS | {"names": ["a", "b"]}, {"names": []}, []]),
    "VOCABULARY": ([WORDS], [WORDS | {"unit": "bytes"}, WORDS | {"length": 0}, WORDS | {"entries": [1]}, {}]),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_ends_where_it_says(name: str) -> None:
    kind = getattr(kinds, name)
    fitting, others = KINDS[name]
    assert [kind.fits(value) for value in fitting] == [True] * len(fitting)
    assert [kind.fits(value) for value in others] == [False] * len(others)
    assert kinds.or_none(kind).fits(None) and not kind.fits(None)


def test_json_has_a_limit_of_depth_and_of_size() -> None:
    """Lists in an object: a value at the twentieth level is read, and one at the twenty-first is not."""
    path = Path("config.json")

    def nested(depth: int) -> bytes:
        return json.dumps({"a": json.loads("[" * (depth - 1) + "1" + "]" * (depth - 1))}).encode()

    assert schema.parse(nested(19), path)["a"]
    with pytest.raises(UserError, match="nested too deeply"):
        schema.parse(nested(20), path)
    assert schema.parse(b'{"a": 1e100, "b": -2.5}', path) == {"a": 1e100, "b": -2.5}
    for text in (b'{"a": 1.1e100}', b'{"a": -1e101}', b'{"a": 1e999}', b'{"a": NaN}'):
        with pytest.raises(UserError, match=r"config\.json"):
            schema.parse(text, path)


def test_a_model_registers_twice_the_numbers_of_its_file_at_most() -> None:
    saved = {"weight": torch.zeros(2, 3), "note": "text"}
    with no_larger_than(saved):
        model = nn.Linear(11, 1)
    assert sum(p.numel() for p in model.parameters()) == 12
    with pytest.raises(UserError, match="larger model than the file holds"), no_larger_than(saved):
        nn.Linear(12, 1)
    assert nn.Linear(100, 1).weight.numel() == 100  # outside of the block there is no limit
