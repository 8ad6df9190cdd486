"""Observations, batches, held-out data, validation parts and the choice of labelled images."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from inference import svi
from inference.data import points
from inference.data.batches import Batches
from inference.data.dataset import Dataset
from inference.data.held_out import HeldOut
from inference.data.labelled import choose_labelled, read_indices
from inference.data.load import find_dataset
from inference.data.observations import CODES, OBSERVATIONS, binarize, fixed_binarization
from inference.errors import UserError
from inference.training.setup import check_data
from ppl_models import MODELS, SSVAE, VAE, VAE2D

CPU = torch.device("cpu")


def test_independent_pixels_score_what_they_should(mnist_dir: Path) -> None:
    """With their marginal rates they have 205.7 nats per image on MNIST's binarised test set."""
    mnist, _ = find_dataset("mnist", mnist_dir)
    rates = (mnist.x_train.flatten(1).double().mean(0) / 255).clamp(1e-6, 1 - 1e-6)
    x = fixed_binarization(mnist.x_test).flatten(1).double()
    nats = -(x * rates.log() + (1 - x) * (1 - rates).log()).sum(1).mean().item()
    assert abs(nats - 205.7) < 0.3


def test_binarising_has_exact_probabilities() -> None:
    levels = torch.arange(256, dtype=torch.uint8).repeat(20_000, 1)
    shares = binarize(levels).mean(0)
    p = torch.arange(256) / 255
    assert shares[0] == 0 and shares[255] == 1
    assert ((shares - p).abs() <= 4.5 * (p * (1 - p) / 20_000).sqrt()).all()
    assert fixed_binarization(levels[:2]).unique().tolist() == [0, 1]
    assert torch.equal(fixed_binarization(levels[:2]), fixed_binarization(levels[:2]))
    # RandomState(0), one binomial sample per pixel in order
    by_numpy = np.random.RandomState(0).binomial(1, np.arange(256) / 255)
    assert fixed_binarization(levels[:1])[0].tolist() == by_numpy.tolist()
    assert by_numpy[:128].sum() == 30 and by_numpy[128:].sum() == 94


def test_unit_pixels_are_grey_levels() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(OBSERVATIONS["unit"].train(levels), torch.arange(256) / 255)
    assert torch.equal(OBSERVATIONS["unit"].test(levels), torch.arange(256) / 255)


def test_centred_pixels_and_their_noise() -> None:
    """Levels are 1/128 apart, noise fills exactly the width of one, and `shown` restores the levels."""
    levels = torch.arange(256, dtype=torch.uint8)
    centred, noisy = OBSERVATIONS["centred"], OBSERVATIONS["dequantised"]
    torch.testing.assert_close(centred.train(levels), torch.linspace(-1, 1, 256))
    torch.testing.assert_close(centred.test(levels), torch.linspace(-1, 1, 256))
    torch.testing.assert_close(centred.shown(centred.test(levels)), levels / 255)
    many = levels.repeat(20_000, 1)
    for drawn in (noisy.train(many), noisy.test(many)):
        above = (drawn + 1) * 128 - levels  # noise, in levels
        assert above.min() > -1e-4 and above.max() < 1 + 1e-4
        assert abs(above.mean() - 0.5) < 1e-3 and abs(above.var() - 1 / 12) < 1e-3
    assert torch.equal(noisy.test(many), noisy.test(many))
    assert not torch.equal(noisy.train(many), noisy.train(many))


def test_an_epoch_sees_every_image_once(small_npz: Path) -> None:
    small, _ = find_dataset(str(small_npz), Path("nowhere"))
    numbered = torch.arange(90, dtype=torch.uint8)[:, None, None, None].expand(90, 1, 6, 6)
    small = Dataset("numbered", numbered, small.y_train, small.x_test, small.y_test)
    batches = Batches(small, VAE, 40, 0, torch.empty(0), CPU)
    assert batches.per_epoch == 3
    assert [len(batches(step)["x"]) for step in range(6)] == [
        40,
        40,
        10,
    ] * 2  # the remaining images are a batch too
    orders = []
    for epoch in range(2):
        batches(3 * epoch)
        orders.append(batches.order.tolist())
        assert sorted(orders[-1]) == list(range(90))
    assert orders[0] != orders[1]
    again = Batches(small, VAE, 40, 0, torch.empty(0), CPU)
    again(4)  # starts in the middle of the second epoch, as a resumed run does
    assert again.order.tolist() == orders[1]


def test_a_single_image_left_over_joins_the_batch_before(small_npz: Path) -> None:
    small, _ = find_dataset(str(small_npz), Path("nowhere"))
    sizes = {}
    for size in (89, 44, 45, 90):
        batches = Batches(small, VAE, size, 0, torch.empty(0), CPU)
        sizes[size] = [len(batches(step)["x"]) for step in range(batches.per_epoch)]
    assert sizes == {89: [90], 44: [44, 44, 2], 45: [45, 45], 90: [90]}


def test_padding_is_zeros_on_all_sides() -> None:
    x = torch.full((2, 1, 4, 5), 7, dtype=torch.uint8)
    small = Dataset("small", x, None, x[:1], None)
    padded = small.padded(type("Eight", (VAE,), {"smallest_size": 8}))
    assert padded.shape == (1, 8, 8) and padded.x_test.shape == (1, 1, 8, 8)
    assert torch.equal(padded.x_train[:, :, 2:6, 1:6], x) and padded.x_train.sum() == x.sum()
    assert small.padded(VAE) is small
    three = type("Three", (VAE,), {"smallest_size": 3, "size_divisor": None})
    with pytest.raises(
        UserError, match="small has images of 4x5: Three needs a height and width of 3: resize to 3x3"
    ):
        small.padded(three)


def numbered(n: int) -> Dataset:
    """Returns n <= 256 images of one pixel, each with another level, with labels."""
    x, y = torch.arange(n, dtype=torch.uint8)[:, None, None, None], torch.arange(n) % 10
    return Dataset("numbered", x, y, x[:3], y[:3])


def test_a_validation_part_is_taken_out_of_the_training_set() -> None:
    whole = numbered(200)
    parts = whole.with_validation(0.2, 3)
    assert parts.x_valid is not None and (len(parts.x_train), len(parts.x_valid)) == (160, 40)
    train, valid = (x.flatten().tolist() for x in (parts.x_train, parts.x_valid))
    assert set(train) | set(valid) == set(range(200)) and not set(train) & set(valid)
    assert train == sorted(train) and valid != list(range(160, 200))  # in their order, and chosen at random
    assert parts.y_train is not None and parts.y_train.tolist() == [i % 10 for i in train]
    assert parts.y_valid is not None and parts.y_valid.tolist() == [i % 10 for i in valid]
    assert parts.x_test is whole.x_test and parts.y_test is whole.y_test
    again, other = whole.with_validation(0.2, 3), whole.with_validation(0.2, 4)
    assert torch.equal(again.x_train, parts.x_train) and not torch.equal(other.x_train, parts.x_train)
    assert whole.with_validation(0, 3) is whole
    bare = Dataset("bare", whole.x_train, None, whole.x_test, None).with_validation(0.2, 3)
    assert torch.equal(bare.x_train, parts.x_train) and bare.y_train is None and bare.y_valid is None


def test_how_many_images_are_for_validation() -> None:
    """CS294-158 of 2019 trains on 65 931 of SVHN's 73 257 images; in general on floor(n (1 - share))."""

    def sizes(n: int, share: float) -> tuple[int, int]:
        x = torch.zeros(n, 1, 1, 1, dtype=torch.uint8)
        parts = Dataset("zeros", x, None, x[:1], None).with_validation(share, 0)
        assert parts.x_valid is not None
        return len(parts.x_train), len(parts.x_valid)

    assert sizes(73_257, 0.1) == (65_931, 7_326)
    for percent in range(1, 100):
        assert sizes(200, percent / 100) == (200 - 2 * percent, 2 * percent)
    assert sizes(10, 0.01) == (9, 1)
    with pytest.raises(UserError, match=r"0\.95 of 10 training images leaves one part empty"):
        sizes(10, 0.95)


def test_classes_are_those_of_the_whole() -> None:
    """A class whose only image is in the validation part still counts."""
    data = numbered(10)
    last = next(seed for seed in range(100) if 9 not in data.with_validation(0.1, seed).y_train)
    assert data.classes == data.with_validation(0.1, last).classes == 10


def test_validation_images_are_held_out_as_test_images_are() -> None:
    digits, _ = find_dataset("digits", Path("nowhere"))
    assert HeldOut(digits, SSVAE, CPU).others == {}
    parts = digits.with_validation(0.1, 0).padded(type("Ten", (VAE,), {"smallest_size": 10}))
    test = HeldOut(parts, SSVAE, CPU)
    (name, valid), *rest = test.others.items()
    assert (name, rest, len(test), len(valid)) == ("validation", [], 500, 130) and not valid.others
    assert parts.x_valid is not None and parts.x_valid.shape[1:] == (1, 10, 10)
    assert torch.equal(valid.x, fixed_binarization(parts.x_valid))
    assert valid.y is not None and torch.equal(valid.y, parts.y_valid)
    gauss = points.load("gauss-diag-1").with_validation(0.1, 0)
    sizes = {name: len(part) for name, part in HeldOut(gauss, VAE2D, CPU).others.items()}
    assert sizes == {"independent": 10_000, "validation": 1_000}


def test_labelled_images_are_drawn_by_seed_and_class() -> None:
    digits, _ = find_dataset("digits", Path("nowhere"))
    first, second = choose_labelled(digits, 50, 0), choose_labelled(digits, 50, 1)
    assert digits.y_train is not None
    assert digits.y_train[first].bincount().tolist() == [5] * 10
    assert len(first.unique()) == 50
    assert torch.equal(first, choose_labelled(digits, 50, 0)) and not torch.equal(first, second)
    batch = Batches(digits, SSVAE, 7, 0, first, CPU)(0)
    assert batch["x_labelled"].shape == (50, 1, 8, 8)
    assert torch.equal(batch["y_labelled"], digits.y_train[first])
    share = torch.stack([binarize(digits.x_train[first]) for _ in range(2000)]).mean(0)
    assert_near = (share - digits.x_train[first] / 255).abs().max()
    assert assert_near < 5 * 0.5 / math.sqrt(2000)


def test_labelled_images_that_are_named_keep_their_order_and_repeats(tmp_path: Path) -> None:
    digits, _ = find_dataset("digits", Path("nowhere"))
    assert digits.y_train is not None
    first = [int((digits.y_train == y).nonzero()[0]) for y in range(10)]
    path = tmp_path / "labelled.txt"
    path.write_text("# one of each class\r\n\n" + "".join(f" {i}  # of ten\n" for i in [*first, first[3]]))
    indices = read_indices(path)
    assert indices == [*first, first[3]]
    chosen = choose_labelled(digits, 99, 0, indices)  # --labels and the seed do not matter
    batch = Batches(digits, SSVAE, 7, 0, chosen, CPU)(0)
    assert batch["y_labelled"].tolist() == [*range(10), 3]
    assert torch.equal(chosen, torch.tensor(indices)) and batch["x_labelled"].shape == (11, 1, 8, 8)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "cannot read labelled.txt (No such file or directory). Name a text file"),
        (b"\xff\xfe", "cannot read labelled.txt (it is not text). Name a text file"),
        (b"0\n1.0\n", "line 2 of labelled.txt is '1.0', not an index. Write one whole number per line"),
        (b"0 1\n", "line 1 of labelled.txt is '0 1', not an index"),
        (b"1297\n", "digits has no training image 1297. Give indices from 0 to 1296"),
        (b"-1\n", "digits has no training image -1. Give indices from 0 to 1296"),
        (b"0\n1\n", "no labelled image has class 0. Add at least one of each class"),
        (b"# none\n", "no labelled image has class 0. Add at least one of each class"),
    ],
)
def test_labelled_images_that_cannot_be_are_refused(
    content: bytes | None, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("labelled.txt")
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        svi.main(["--model", "ssvae", "--data", "digits", "--labelled", str(path), "--run-dir", "run"])
    assert str(caught.value).startswith(complaint) and "\n" not in str(caught.value)
    assert not Path("run").exists()


def test_the_course_s_labelled_images_are_ten_of_each_class(mnist_dir: Path) -> None:
    mnist, _ = find_dataset("mnist", mnist_dir)
    assert mnist.y_train is not None
    file = Path(__file__).parents[2] / "docs" / "courses" / "cs236-2021-labelled.txt"
    chosen = choose_labelled(mnist, 100, 0, read_indices(file))
    assert mnist.y_train[chosen].tolist() == [y for y in range(10) for _ in range(10)]
    indices, times = chosen.unique(return_counts=True)
    assert len(indices) == 99
    # the repeated image is number 2176 of the fours, as in the course's code
    assert indices[times == 2].tolist() == [int((mnist.y_train == 4).nonzero()[2176])]


def test_codes_up_to_255_are_fewer_than_256() -> None:
    x = torch.full((3, 1, 2, 2), 255, dtype=torch.uint8)
    codes = Dataset("codes", x, None, x[:0], None, kind=CODES)
    check_data(MODELS["code_pixelcnn"], {"codes": 256}, codes)
    with pytest.raises(UserError, match="has code 255: give --codes more than that"):
        check_data(MODELS["code_pixelcnn"], {"codes": 255}, codes)
