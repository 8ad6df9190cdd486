"""Plate diagrams agree with the programs."""

import inspect
import re
from pathlib import Path

import matplotlib.image
import pyro
import pyro.distributions as dist
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from inference import graph as graph_command
from inference.data.examples import example_inputs
from inference.errors import UserError
from inference.plots import canvas, diagram, graph
from inference.plots.diagram import node_places, symbol
from inference.plots.graph import factorisation, views
from inference.plots.relations import Edge, Relations, relations
from ppl_models import GMVAE, MODELS, PPCA, SSVAE, VAE
from ppl_models.base import LatentVariableModel
from tests.support import DOCUMENTED

SHAPE = (1, 4, 4)


def plain(formula: str) -> str:
    """Mathtext as plain text."""
    words = formula.strip("$").replace(r"\mid", "|").replace(r"\,", " ")
    words = re.sub(r"_\{\\mathrm\{(\d+)\}\}", r"\1", words)
    return re.sub(r"_\{\\mathrm\{(\w+)\}\}", r"_\1", words)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_factorisation_is_that_of_the_docstring(name: str, narrow: None) -> None:
    """The docstring of a model begins with the factorisation of its programs, in one line or in two."""
    cls = MODELS[name]
    view = views(cls(cls.padded(cls.example_shape), 10).eval())[0]
    lines = [*factorisation(view.model, "p", view.guide), *factorisation(view.guide, "q")]
    begins = tuple(between.join(map(plain, lines)) for between in (";  ", ".\n\n"))
    assert inspect.cleandoc(cls.__doc__ or "").startswith(begins)
    plates = {"data": cls.defaults["batch_size"]}
    assert view.model.plates == plates and view.guide.plates == (plates if view.guide.nodes else {})


def test_the_semi_supervised_model_has_three_views() -> None:
    model = SSVAE((1, 8, 8), 10, z_dim=2, hidden=8, labels=30)
    hidden, some, seen = views(model)
    assert [view.title for view in (hidden, some, seen)] == [
        "y unobserved",
        "some (x, y) observed",
        "x and y observed",
    ]
    edges = {Edge("x", "y", ("classifier",)), Edge("x", "z", ("encoder",)), Edge("y", "z", ("encoder",))}
    assert set(hidden.guide.edges) == edges
    assert set(hidden.model.edges) == {Edge("y", "x", ("decoder",)), Edge("z", "x", ("decoder",))}
    assert [name for name, node in hidden.model.nodes.items() if node.observed] == ["x"]

    assert some.model.plates == {"labelled": 30, "data": 97}
    assert Edge("x_labelled", "y_labelled", ("classifier",)) in some.model.edges
    labelled = [some.model.nodes[name] for name in ("x_labelled", "y_labelled")]
    assert [(node.kind, node.observed, node.plates) for node in labelled] == [
        ("input", True, ("labelled",)),
        ("random", True, ("labelled",)),
    ]
    assert [plain(line) for line in factorisation(some.model, "p", some.guide)] == [
        "p(x, y, z) = p(y) p(z) p(x | y, z)",
        "q(y_labelled | x_labelled)",  # the classifier, which is the guide's
    ]

    assert [name for name, node in seen.model.nodes.items() if node.observed] == ["y", "x"]
    assert plain(factorisation(seen.guide, "q")[0]) == "q(z | x, y)"
    assert plain(factorisation(seen.model, "p")[0]) == "p(x, y, z) = p(y) p(z) p(x | y, z)"


def test_parameters_outside_of_networks_are_nodes_and_are_restored() -> None:
    model = GMVAE(SHAPE, z_dim=2, hidden=4, components=3)
    before = dict(model.named_parameters())
    view = views(model)[0]
    assert view.model.nodes["components"].kind == "parameter" and view.model.nodes["components"].plates == ()
    assert Edge("components", "z") in view.model.edges and "components" not in view.guide.nodes
    after = dict(model.named_parameters())
    assert list(after) == list(before) and all(after[name] is before[name] for name in before)
    x = example_inputs(model, 2)["x"]
    assert type(model.decoder(torch.zeros(1, 2))) is Tensor and model.reconstruct(x).shape == x.shape
    linear = views(PPCA(SHAPE, z_dim=2))[0]
    assert Edge("log_scale", "x") in linear.model.edges and Edge("raw_tril", "z") in linear.guide.edges


def test_a_diagram_changes_with_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    model = VAE(SHAPE, z_dim=2, hidden=4)
    assert factorisation(views(model)[0].model, "p") == [r"$p(x, z) = p(z)\,p(x \mid z)$"]

    def independent(x: Tensor) -> None:  # x does not depend on z
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            assert z.shape == (len(x), 2)
            pyro.sample("x", dist.Bernoulli(0.5).expand(SHAPE).to_event(3), obs=x)

    monkeypatch.setattr(model, "model", independent)
    assert factorisation(views(model)[0].model, "p") == [r"$p(x, z) = p(z)\,p(x)$"]
    assert views(model)[0].model.edges == []


class TwoLevels(LatentVariableModel):
    """p(x, z1, z2 | y) with nested plates, an input y, and a guide that uses the prior's network."""

    inputs = ("x", "y")
    defaults = {"batch_size": 5}

    def __init__(self) -> None:
        super().__init__((1, 1, 2), 3)
        self.prior_net, self.encoder, self.decoder = nn.Linear(2, 2), nn.Linear(5, 2), nn.Linear(5, 2)

    def model(self, x: Tensor, y: Tensor) -> None:
        hot = torch.nn.functional.one_hot(y, 3).float()
        with pyro.plate("data", len(x), dim=-1):
            z1 = pyro.sample("z1", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            z2 = pyro.sample("z2", dist.Normal(self.prior_net(z1), 1.0).to_event(1))
            loc = self.decoder(torch.cat([z2, hot], -1))  # (batch, 2)
            with pyro.plate("pixels", 2, dim=-2):
                pyro.sample("x", dist.Normal(loc.T, 1.0), obs=x.flatten(1).T)

    def guide(self, x: Tensor, y: Tensor) -> None:
        hot = torch.nn.functional.one_hot(y, 3).float()
        with pyro.plate("data", len(x), dim=-1):
            z1 = pyro.sample("z1", dist.Delta(self.encoder(torch.cat([x.flatten(1), hot], -1)), event_dim=1))
            loc = self.prior_net(z1) + self.encoder(torch.cat([x.flatten(1), hot], -1))
            pyro.sample("z2", dist.Normal(loc, 1.0).to_event(1))


def test_levels_inputs_and_plates_in_plates(tmp_path: Path) -> None:
    model = TwoLevels()
    (view,) = views(model)
    assert set(view.model.edges) == {
        Edge("z1", "z2", ("prior_net",)),
        Edge("z2", "x", ("decoder",)),
        Edge("y", "x", ("decoder",)),
    }
    assert {edge for edge in view.guide.edges if edge.child == "z2"} == {
        Edge("z1", "z2", ("prior_net",)),
        Edge("x", "z2", ("encoder",)),
        Edge("y", "z2", ("encoder",)),
    }
    assert view.model.nodes["x"].plates == ("data", "pixels") and view.model.nodes["z1"].plates == ("data",)
    assert view.model.plates == {"data": 5, "pixels": 2}
    assert view.guide.nodes["z1"].is_deterministic and not view.guide.nodes["z2"].is_deterministic
    assert factorisation(view.model, "p") == [
        r"$p(x, z_{\mathrm{1}}, z_{\mathrm{2}} \mid y) = "
        r"p(z_{\mathrm{1}})\,p(z_{\mathrm{2}} \mid z_{\mathrm{1}})\,p(x \mid z_{\mathrm{2}}, y)$"
    ]
    at = node_places(view.model, {})
    assert at["z1"][1] > at["z2"][1] > at["x"][1]  # parents above their children
    assert (
        diagram._bend(Edge("z1", "x"), at) != 0 == diagram._bend(Edge("z1", "z2"), at)
    )  # around the node between them
    assert node_places(view.guide, at) == {name: at[name] for name in view.guide.nodes}  # the same places
    graph.draw(model, tmp_path / "two.png")
    assert matplotlib.image.imread(tmp_path / "two.png").std() > 0.05


class Density(LatentVariableModel):
    """p(x) without latents."""

    defaults = {"batch_size": 5}

    def __init__(self) -> None:
        super().__init__((1, 1, 2))
        self.loc, self.log_scale = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))

    def model(self, x: Tensor) -> None:
        noise = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        move = dist.transforms.AffineTransform(self.loc, self.log_scale.exp(), event_dim=1)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.TransformedDistribution(noise, [move]), obs=x.flatten(1))

    def guide(self, x: Tensor) -> None:
        pass


def test_without_latents_the_guide_is_empty(tmp_path: Path) -> None:
    (view,) = views(Density())
    assert factorisation(view.guide, "q") == [] and view.guide == Relations()
    assert factorisation(view.model, "p") == ["$p(x)$"]
    assert view.model.nodes["x"].distribution == "TransformedDistribution"
    at = node_places(view.model, {})
    assert len(set(at.values())) == len(at) == 3  # all places differ
    graph.draw(Density(), tmp_path / "density.png")
    assert matplotlib.image.imread(tmp_path / "density.png").std() > 0.03


def test_an_input_that_nothing_depends_on_is_not_a_node() -> None:
    model = VAE(SHAPE, z_dim=2, hidden=4)
    found = relations(
        lambda x, y: model.guide(x), model, example_inputs(model, 3) | {"y": torch.ones(3)}, {"x", "y"}
    )
    assert list(found.nodes) == ["x", "z"]


def test_symbols() -> None:
    assert [symbol(name) for name in ("z", "z1", "x_labelled", "log_scale")] == [
        "z",
        r"z_{\mathrm{1}}",
        r"x_{\mathrm{labelled}}",
        r"\mathrm{log\ scale}",
    ]


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_the_command_writes_a_file(ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / f"ssvae.{ending}"
    assert graph_command.main(["--model", "ssvae", "--out", str(out)]) == 0
    assert out.stat().st_size > 5_000 and str(out) in capsys.readouterr().out
    if ending == "png":
        picture = matplotlib.image.imread(out)
        assert min(picture.shape[:2]) > 1_000
        for row in (picture[:4], picture[-4:], picture[:, :4], picture[:, -4:]):
            assert (row == 1).all()  # nothing is cut off


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_diagrams_in_docs_agree_with_the_code(name: str, narrow: None) -> None:
    cls = MODELS[name]
    words = Image.open(Path(graph.__file__).parents[2] / "docs" / "diagrams" / f"{name}.png").text[
        "Description"
    ]
    assert words == graph.describe(views(cls(cls.padded(cls.example_shape), 10).eval())), (
        f"make it again: python -m inference.graph --model {name} --out docs/diagrams/{name}.png"
    )


def test_a_long_formula_is_as_wide_as_its_half_of_the_picture() -> None:
    _, (axes, _) = canvas.subplots(1, 2, figsize=(6, 2))
    graph._write_formulae(axes, ["$p(x)$", "$" + "+ y" * 60 + "$"], "", 0.5, 0.5)
    short, long = axes.texts[:2]
    assert short.get_fontsize() == 12.5
    assert 0.8 < long.get_window_extent().width / axes.get_window_extent().width <= 1


def test_every_documented_model_has_a_diagram() -> None:
    folder = Path(graph.__file__).parents[2] / "docs" / "diagrams"
    assert set(DOCUMENTED) <= {path.stem for path in folder.glob("*.png")} <= set(MODELS)


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean ssvae"):
        graph_command.main(["--model", "svae"])
    with pytest.raises(UserError, match=r"Use one of \.png, \.svg, \.pdf"):
        graph_command.main(["--model", "vae", "--out", str(tmp_path / "x.bmp")])
    with pytest.raises(UserError, match="cannot write"):
        graph_command.main(["--model", "vae", "--out", str(tmp_path / "no" / "x.png")])
    assert list(tmp_path.iterdir()) == []
