"""Course pages: they answer every deliverable of the five handouts, and every command on them parses."""

import importlib.util
import itertools
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from inference import sweep
from inference.cli.train import parse
from inference.rundir.config import flag
from inference.tuning.space import corners
from ppl_models import MODELS

ROOT = Path(__file__).parent.parent
PAGES = {  # number of deliverables of each handout
    "docs/courses/cs294-158-2024-hw2.md": 47,
    "docs/courses/cs236-2021-hw2.md": 17,
    "docs/courses/csds600-hw1.md": 10,
    "docs/courses/cs566-autoencoder-vae.md": 27,
    "docs/courses/cs294-158-2019-hw3.md": 24,
}
# What follows `python -m` or `torchrun ... -m` on a line, in a code span or in a comment.
COMMAND = re.compile(r"(?:python|torchrun\b[^\n`]*?) -m ([\w.]+)([^\n`;]*)")
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
PUBLISHED = re.compile(r"runs/published/([\w.*{},-]+\.json)")
BRACES = re.compile(r"\{([^}]*)\}")


def listed() -> list[tuple[str, str, str]]:
    """Returns name, page and description of every line of docs/deliverables."""
    lines = (ROOT / "docs" / "deliverables").read_text().splitlines()
    return [tuple(line.split("\t")) for line in lines]


def text(page: str) -> str:
    """Reads a page and joins commands that continue on the next line."""
    return (ROOT / page).read_text().replace("\\\n", " ")


def shown(page: str) -> str:
    """Reads a page without its comments."""
    return re.sub(r"<!--.*?-->", "", text(page), flags=re.DOTALL)


def sections(page: str) -> list[tuple[str, str]]:
    """Returns each name in backticks at the end of a heading, with the text below up to the next heading."""
    found = []
    for part in re.split(r"^(?=#+ )", re.sub(r"(?s)```.*?```", "", shown(page)), flags=re.MULTILINE):
        heading, _, below = part.partition("\n")
        name = re.fullmatch(r"#+ .*`([^`]+)`", heading)
        if name:
            found.append((name[1], below))
    return found


def commands(page: str) -> list[tuple[str, list[str]]]:
    """Returns module and arguments of every command on a page, comments included."""
    return [
        (module, shlex.split(rest.removesuffix("-->"), comments=True))
        for module, rest in COMMAND.findall(text(page))
    ]


@cache
def options_of(module: str) -> set[str]:
    """Returns the options in the help text of a command."""
    parts = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "argparse.ArgumentParser._print_message", lambda self, message, file=None: parts.append(message)
        )
        with pytest.raises(SystemExit):
            importlib.import_module(module).main(["--help"])
    return set(re.findall(r"--[a-z-]+", "".join(parts)))


def runs_of(arguments: list[str]) -> list[list[str]]:
    """Returns the arguments that a sweep passes to inference.svi, for each value and the ends of ranges."""
    asked, rest = sweep.options(arguments)
    typed = [[f"{flag(key)}={text}" for key, text in point.items()] for point in corners(dict(asked.over))]
    return [["--model", asked.model, *rest, *over] for over in typed]


def test_the_list_covers_five_handouts() -> None:
    every = listed()
    assert all(len(line) == 3 and all(line) for line in every)
    names = [name for name, _, _ in every]
    assert len(names) == len(set(names))
    pages = [page for _, page, _ in every]
    assert list(dict.fromkeys(pages)) == list(PAGES)
    assert {page: pages.count(page) for page in PAGES} == PAGES
    assert sum(PAGES.values()) == 125
    # the first handout states its number of deliverables: 36 figures, 10 sets of numbers and a reflection
    first = [name for name, page, _ in every if page == pages[0]]
    numbers = [name for name in first if name.endswith(("-numbers", "-losses"))]
    assert len(numbers) == 10 and sum(name.endswith("-reflection") for name in first) == 1
    assert len(first) - len(numbers) - 1 == 36


@pytest.mark.parametrize("page", PAGES)
def test_every_deliverable_has_a_section(page: str) -> None:
    """The sections are the listed deliverables in order, each with its question, and a command or a link."""
    found = sections(page)
    assert [name for name, _ in found] == [name for name, where, _ in listed() if where == page]
    for name, below in found:
        assert shown(page).count(f"`{name}`") == 1, name
        assert "*Asked" in below, f"{name}: the question is missing"
        assert COMMAND.search(below) or LINK.search(below), f"{name} has neither a command nor a link"


@pytest.mark.parametrize("page", [*PAGES, "docs/commands.md", "docs/howto/sweeps.md", "docs/teaching.md"])
def test_every_command_parses(page: str) -> None:
    given = commands(page)
    assert len(given) >= (5 if "howto" in page else 10)
    for module, arguments in given:
        assert importlib.util.find_spec(module), module
        assert all(name in MODELS for flag, name in itertools.pairwise(arguments) if flag == "--model"), (
            arguments
        )
        if module == "inference.svi":
            parse(arguments)  # raises UserError for an option that the model does not have
        elif module == "inference.sweep":
            for run in runs_of(arguments):
                parse(run)
        else:
            flags = {word.partition("=")[0] for word in arguments if word.startswith("--")}
            assert not flags or flags <= options_of(module), (
                f"{module} does not have {flags - options_of(module)}"
            )


@pytest.mark.parametrize("page", PAGES)
def test_links_and_anchors_exist(page: str) -> None:
    links, folder = LINK.findall(shown(page)), (ROOT / page).parent
    assert links
    for words, link in links:
        path, _, anchor = link.partition("#")
        target = (folder / path).resolve() if path else ROOT / page
        if target.parent.name == "derivations" and not target.parent.exists():
            continue
        assert target.exists(), link
        if target.suffix == ".py":  # the text names a definition: `densities.normal`, `test_normal`, `vae`
            for name in re.findall(r"`[\w.]*?(\w+)`", words):
                assert name == target.stem or re.search(rf"\b{name}\b", target.read_text()), (name, link)
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), flags=re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert anchor in slugs, link


@pytest.mark.parametrize("page", PAGES)
def test_published_results_exist(page: str) -> None:
    names = [name for found in PUBLISHED.findall(shown(page)) for name in expand_braces(found)]
    assert names
    for name in names:
        assert list((ROOT / "runs" / "published").glob(name)), name


def expand_braces(name: str) -> list[str]:
    """Expands a-{0,1}.json to a-0.json and a-1.json."""
    braces = BRACES.search(name)
    if not braces:
        return [name]
    return [end for word in braces[1].split(",") for end in expand_braces(name.replace(braces[0], word, 1))]
