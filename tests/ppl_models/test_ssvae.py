"""What is particular to the semi-supervised model: the label summed out, and the labelled images beside."""

import json
from pathlib import Path

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from torch.nn.functional import cross_entropy, relu
from torch.testing import assert_close

import inference.evaluate as evaluate_command
from inference import report, svi
from inference.compare import main as compare_main
from inference.data.examples import example_inputs
from inference.data.observations import OBSERVATIONS
from inference.elbo.comparison import compare
from inference.elbo.estimators import Loss
from inference.rundir.restore import restore
from ppl_models import SSVAE, VAE, densities
from ppl_models.nets.heads import loc_scale
from ppl_models.programs import sample_latents
from tests.support import TINY, checkpoint, same

SHAPE = (1, 8, 8)


def test_the_bound_is_a_sum_over_labels(float64: None) -> None:
    """Label by label and image by image, with nothing broadcast: the course's formula as it is printed."""
    model = SSVAE(SHAPE, 3, z_dim=2, hidden=16)
    x = example_inputs(model, 4)["x"]
    latents = sample_latents(model, x=x)
    z, bound = latents["z"], model.bound(x, latents)  # z (label, image, z_dim)
    for i in range(4):
        image = x[i].flatten()
        q = model.classify(x[i : i + 1]).softmax(-1)[0]
        total = sum(q[y] * (q[y] * 3).log() for y in range(3))
        for y in range(3):
            label = torch.eye(3)[y]
            loc, scale = loc_scale(model.encoder(image, label))
            total += q[y] * densities.kl_normal_standard(loc, scale)
            total -= q[y] * densities.bernoulli(image, model.decoder(z[y, i], label))
        assert_close(bound.negative_elbo[i], total)


def test_one_class_is_a_vae(float64: None) -> None:
    model, vae = SSVAE(SHAPE, 1, z_dim=2, hidden=16), VAE(SHAPE, z_dim=2, hidden=16)
    for ours, theirs in ((model.encoder, vae.encoder), (model.decoder, vae.decoder)):
        state = ours.state_dict()  # the label is always one, so its column is part of the bias
        column = state["layers.0.weight"][:, -1].clone()
        state |= {"layers.0.weight": state["layers.0.weight"][:, :-1]}
        state |= {"layers.0.bias": state["layers.0.bias"] + column}
        theirs.load_state_dict(state)
    x = example_inputs(vae, 4)["x"]
    latents = sample_latents(model, x=x)
    assert_close(model.bound(x, latents).negative_elbo, vae.bound(x, {"z": latents["z"][0]}).negative_elbo)


def test_weights(float64: None) -> None:
    model = SSVAE(SHAPE, 3, z_dim=2, hidden=16, gen_weight=0.5, class_weight=7.0)
    inputs = example_inputs(model, 5)
    assert compare(model, inputs, "enum")["agrees"]
    bound = model.bound(**inputs, latents=sample_latents(model, **inputs))
    error = cross_entropy(model.classify(inputs["x_labelled"]), inputs["y_labelled"])
    assert_close(bound.objective, 0.5 * bound.negative_elbo.mean() + 7 * error)


def test_without_generative_weight_it_is_a_classifier(float64: None) -> None:
    model = SSVAE(SHAPE, 3, z_dim=2, hidden=16, gen_weight=0.0)
    inputs = example_inputs(model, 5)
    with poutine.trace() as tracer:
        loss = Loss(model, "enum")(**inputs)
    assert_close(loss, 100 * cross_entropy(model.classify(inputs["x_labelled"]), inputs["y_labelled"]))
    assert not {"x", "y", "z"} & set(tracer.trace.nodes)  # the bound is not paid for
    loss.backward()
    assert all(p.grad is None for p in [*model.encoder.parameters(), *model.decoder.parameters()])
    assert compare(model, inputs, "enum")["agrees"]
    assert model.bound(inputs["x"], {}).negative_elbo is None


@pytest.mark.parametrize("weights", [(0.5, 0.0), (0.0, 0.5), (1.0, 0.5)])
def test_either_weight_may_be_left_out(weights: tuple[float, float], float64: None) -> None:
    model = SSVAE(SHAPE, 3, z_dim=2, hidden=16, gen_weight=weights[0], class_weight=weights[1])
    inputs = example_inputs(model, 5)
    result = compare(model, inputs, "enum")
    assert result["agrees"] and ("classification" in result["terms"]) == (weights[1] > 0)
    assert ("reconstruction" in result["terms"]) == (weights[0] > 0)
    bound = model.bound(inputs["x"], sample_latents(model, x=inputs["x"]))
    assert bound.penalties == {}  # without labelled images there is nothing to classify
    assert bound.weights == {**dict.fromkeys(bound.terms, weights[0]), "classification": weights[1]}


def test_both_weights_left_out_is_refused() -> None:
    with pytest.raises(
        ValueError,
        match=r"^gen_weight and class_weight are both 0: nothing is left to train. Set one of them above 0.$",
    ):
        SSVAE(SHAPE, 3, gen_weight=0.0, class_weight=0.0)


def test_networks_are_the_course_s() -> None:
    model = SSVAE(SHAPE, 3, z_dim=2, hidden=16)
    x = torch.rand(5, *SHAPE)
    first, second, last = model.classifier.layers
    assert_close(model.classify(x), last(relu(second(relu(first(x.flatten(1)))))))  # the others have ELU


def test_enumeration_is_the_mean_of_sampling_y() -> None:
    """Labels drawn from q(y | x) average to what the enumerated bound sums, within four standard errors."""
    pyro.set_rng_seed(2)
    model = SSVAE(SHAPE, 3, z_dim=2, hidden=16)
    x = example_inputs(model, 2)["x"]
    n = 4000
    tiled = x.repeat_interleave(n, 0)
    with torch.no_grad():
        exact = torch.stack([model.bound(x, sample_latents(model, x=x)).negative_elbo for _ in range(400)])
        guide = poutine.trace(model.guide).get_trace(tiled)
        program = poutine.trace(poutine.replay(model.model, guide)).get_trace(tiled)
        for trace in (guide, program):
            trace.compute_log_prob()
        log_p = sum(program.nodes[name]["log_prob"] for name in ("x", "y", "z"))
        draws = (sum(guide.nodes[name]["log_prob"] for name in ("y", "z")) - log_p).unflatten(0, (2, n))
    error = (exact.var(0) / len(exact) + draws.var(1) / n).sqrt()
    assert ((exact.mean(0) - draws.mean(1)).abs() < 4 * error).all()


def test_the_enumerated_gradient_is_the_mean_of_the_score_function_s(float64: None) -> None:
    """y drawn and the score-function gradient of `Trace_ELBO`: noisier, and the same in mean."""
    pyro.set_rng_seed(0)
    model, n, rounds = SSVAE((1, 2, 2), 3, z_dim=1, hidden=3), 2_000, 100
    with torch.no_grad():  # labels and z that matter, and a classifier that is wrong about them
        for net in (model.decoder, model.classifier):
            for layer in net.layers:
                layer.weight *= 3
    x = example_inputs(model, 1)["x"].expand(n, -1, -1, -1)
    means, errors = [], []
    drawn = poutine.infer_config(model.guide, lambda site: {"enumerate": None})
    enumerated, sampled = TraceEnum_ELBO(max_plate_nesting=1), Trace_ELBO(max_plate_nesting=1)
    for elbo, guide in ((enumerated, model.guide), (sampled, drawn)):
        gradients = []
        for _ in range(rounds):
            loss = elbo.differentiable_loss(model.model, guide, x) / n
            parts = torch.autograd.grad(loss, list(model.parameters()))
            gradients.append(torch.cat([part.flatten() for part in parts]))
        means.append(torch.stack(gradients).mean(0))
        errors.append(torch.stack(gradients).std(0) / rounds**0.5)
    error = (errors[0] ** 2 + errors[1] ** 2).sqrt()
    assert ((means[0] - means[1]).abs() / error).nan_to_num().max() < 4.5
    size = sum(p.numel() for p in model.classifier.parameters())
    assert errors[1].norm() < 0.05 * means[0].norm()  # so that a missing part would be seen
    assert (
        errors[1][:size].norm() > 3 * errors[0][:size].norm()
    )  # the sum over y is what takes the noise away


def test_samples_have_the_class_asked_for() -> None:
    model = SSVAE(SHAPE, 3, z_dim=2, hidden=16)
    z = torch.randn(1, 2)
    y = torch.tensor([0, 1, 2])
    images = model.sample(3, y=y, latents={"z": z.expand(3, 2)}, noise=False)
    by_hand = model.decoder(z.expand(3, 2), torch.eye(3)).sigmoid().view(3, *SHAPE)
    assert_close(images, by_hand)
    with pytest.raises(AssertionError):
        assert_close(images[0], images[1])


def test_parameters_are_the_course_s() -> None:
    assert sum(p.numel() for p in SSVAE((1, 28, 28), 10).parameters()) == 1_044_922
    assert sum(p.numel() for p in VAE((1, 28, 28)).parameters()) == 661_404


def test_a_run_on_labelled_images_that_a_file_names(
    small_npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training sees these, in every seed, and every command reads them from the run: the file may go."""
    file, run = tmp_path / "labelled.txt", tmp_path / "1"
    file.write_text("5\n3\n4\n4  # twice\n")
    arguments = ["--model", "ssvae", *TINY, "--data", str(small_npz), "--labelled", str(file), "--run-dir"]
    for seed in ("0", "1"):
        assert svi.main([*arguments, str(tmp_path / seed), "--seed", seed]) == 0
        config = json.loads((tmp_path / seed / "config.json").read_text())
        assert config["labelled"] == [5, 3, 4, 4] and config["labelled_file"] == "labelled.txt"
        assert config["options"]["labels"] == 4
    assert svi.main([*arguments, str(tmp_path / "part"), "--seed", "1", "--steps", "5"]) == 0
    file.unlink()
    assert svi.main(["--resume", str(tmp_path / "part"), "--steps", "10"]) == 0
    assert same(checkpoint(tmp_path / "part"), checkpoint(run))

    _, _, data, model = restore(run)
    assert data.y_train is not None
    x, y = OBSERVATIONS["binary"].test(data.x_train[[5, 3, 4, 4]]).float(), torch.tensor([2, 0, 1, 1])
    assert torch.equal(data.y_train[[5, 3, 4, 4]], y)
    capsys.readouterr()
    assert compare_main(["--run", str(run), "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["comparisons"]
    error = cross_entropy(model.classify(x), y).item()
    assert result["terms"]["classification"]["by_hand"] == pytest.approx(error, rel=1e-4)
    assert evaluate_command.main([str(run), "--particles", "1"]) == 0
    assert report.main([str(run)]) == 0
    assert "<dt>labelled images</dt><dd>labelled.txt</dd>" in (run / "report.html").read_text()
