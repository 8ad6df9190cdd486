"""The latents of data points: moments of the guide, the exact posterior where there is one, codes."""

import pytest
import torch

from inference import encode, load
from inference.data import Dataset, load_dataset
from inference.errors import UserError
from ppl_models import AE, FSVAE, HVAE, MADE, PPCA, SSVAE, VAE, VQVAE


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


def seeded(cls, *arguments, **options):
    torch.manual_seed(0)
    return cls(*arguments, **options).eval()


def test_means_and_deviations_are_those_of_the_guide(digits: Dataset) -> None:
    model = seeded(VAE, (1, 8, 8), z_dim=3, hidden=16)
    found = encode(model, digits)
    q = model.posterior(digits.x_test / 255)["z"]
    torch.testing.assert_close(found.mean["z"], q.mean)
    torch.testing.assert_close(found.std["z"], q.base_dist.scale)
    assert torch.equal(found.y, digits.y_test) and found.codes is None
    assert list(found.arrays()) == ["z_mean", "z_std", "y"]


def test_an_exact_guide_gives_the_posterior(digits: Dataset, float64: None) -> None:
    """In closed form, with correlated latents: the deviations are those of the margins."""
    model = seeded(PPCA, (1, 8, 8), z_dim=3)
    x = digits.x_train / 255
    model.solve(x)
    loc, covariance = model.exact_posterior(x[:50])
    found = encode(model, digits.x_train[:50])
    torch.testing.assert_close(found.mean["z"], loc)
    expected = covariance.diagonal().sqrt().expand_as(loc)
    torch.testing.assert_close(found.std["z"], expected)


def test_a_label_has_probabilities_and_a_guide_gets_the_labels(digits: Dataset) -> None:
    model = seeded(SSVAE, (1, 8, 8), 10, z_dim=2, hidden=16)
    found = encode(model, digits)
    torch.testing.assert_close(found.mean["y"], model.classify(digits.x_test / 255).softmax(-1))
    torch.testing.assert_close(found.std["y"] ** 2, found.mean["y"] * (1 - found.mean["y"]))
    conditional = seeded(FSVAE, (1, 8, 8), 10, z_dim=2, hidden=16)
    expected = conditional.posterior(digits.x_test / 255, y=digits.y_test)["z"].mean
    torch.testing.assert_close(encode(conditional, digits).mean["z"], expected)


def test_points_masses_maps_and_codes() -> None:
    x = torch.rand(3, 3, 32, 32)
    deviations = encode(seeded(AE, (1, 28, 28), z_dim=2), torch.rand(4, 28, 28)).std["z"]
    assert deviations.shape == (4, 2) and (deviations == 0).all()
    maps = encode(seeded(HVAE, (3, 32, 32)), x)
    assert maps.mean.keys() == {"z1", "z2"} and maps.std["z2"].shape == (3, 12, 2, 2)
    model = seeded(VQVAE, (3, 32, 32), codes=9)
    found = encode(model, x)
    levels = (x * 255).round() / 255 * 2 - 1
    assert torch.equal(found.codes, model.codes(levels).to(torch.uint8)) and not found.mean
    assert list(found.arrays()) == ["codes"]


def test_a_saved_model_is_as_good_as_the_model(tmp_path, digits: Dataset) -> None:
    model = seeded(VAE, (1, 8, 8), z_dim=3, hidden=16)
    model.save(tmp_path / "vae.pt")
    assert torch.equal(encode(tmp_path / "vae.pt", digits).mean["z"], encode(model, digits).mean["z"])
    assert isinstance(load(tmp_path / "vae.pt"), VAE)


def test_a_model_without_latents_is_refused(digits: Dataset) -> None:
    with pytest.raises(UserError, match=r"^MADE has no latents to encode\. Choose another model\.$"):
        encode(seeded(MADE, (1, 8, 8), hidden=8), digits)
