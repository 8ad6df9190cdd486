"""The course pages: every deliverable of the five handouts is there, and every command can be given."""

import argparse
import importlib.util
import itertools
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from inference.cli.options import parse
from ppl_models import MODELS

ROOT = Path(__file__).parent.parent
PAGES = {  # in the handouts' order: deliverables of each
    "docs/courses/cs294-158-2024-hw2.md": 47,
    "docs/courses/cs236-2021-hw2.md": 17,
    "docs/courses/csds600-hw1.md": 10,
    "docs/courses/cs566-autoencoder-vae.md": 27,
    "docs/courses/cs294-158-2019-hw3.md": 24,
}
# What follows `python -m` or `torchrun ... -m` on a line, in a code span, or in what is left to be made.
COMMAND = re.compile(r"(?:python|torchrun\b[^\n`]*?) -m ([\w.]+)([^\n`;]*)")
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
PUBLISHED = re.compile(r"runs/published/([\w.*{},-]+\.json)")
EXPANDED = re.compile(r"\{([^}]*)\}")


def listed() -> list[tuple[str, str, str]]:
    """Every line of docs/deliverables: its name, its page, what it is."""
    lines = (ROOT / "docs" / "deliverables").read_text().splitlines()
    return [tuple(line.split("\t")) for line in lines]


def text(page: str) -> str:
    """A page, a line for each command."""
    return (ROOT / page).read_text().replace("\\\n", " ")


def shown(page: str) -> str:
    """What of a page is seen: without its comments."""
    return re.sub(r"<!--.*?-->", "", text(page), flags=re.DOTALL)


def sections(page: str) -> list[tuple[str, str]]:
    """Each heading that ends with a name in backticks: the name, and what is below it to the next heading."""
    found = []
    for part in re.split(r"^(?=#+ )", re.sub(r"(?s)```.*?```", "", shown(page)), flags=re.MULTILINE):
        heading, _, below = part.partition("\n")
        name = re.fullmatch(r"#+ .*`([^`]+)`", heading)
        if name:
            found.append((name[1], below))
    return found


def commands(page: str) -> list[tuple[str, list[str]]]:
    """Every command on a page, also one that is left to be run: its module and its arguments."""
    return [
        (module, shlex.split(rest.removesuffix("-->"), comments=True))
        for module, rest in COMMAND.findall(text(page))
    ]


@cache
def options_of(module: str) -> set[str]:
    """The options that a command's help names."""
    parts = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "argparse.ArgumentParser._print_message", lambda self, message, file=None: parts.append(message)
        )
        with pytest.raises(SystemExit):
            importlib.import_module(module).main(["--help"])
    return set(re.findall(r"--[a-z-]+", "".join(parts)))


def runs_of(sweep: list[str]) -> list[list[str]]:
    """What a sweep gives inference.svi, each value once."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for flag in ("--seeds", "--jobs", "--out"):
        parser.add_argument(flag)
    parser.add_argument("--over", action="append", required=True)
    asked, rest = parser.parse_known_args(sweep)
    over = [words.partition("=") for words in asked.over]
    return [[*rest, f"--{key}={value}"] for key, _, values in over for value in values.split(",")]


def test_the_list_is_of_five_handouts() -> None:
    every = listed()
    assert all(len(line) == 3 and all(line) for line in every)
    names = [name for name, _, _ in every]
    assert len(names) == len(set(names))
    pages = [page for _, page, _ in every]
    assert list(dict.fromkeys(pages)) == list(PAGES)
    assert {page: pages.count(page) for page in PAGES} == PAGES
    assert sum(PAGES.values()) == 125
    # the first says itself how much it asks for: 36 figures, 10 times two or three numbers, a reflection
    first = [name for name, page, _ in every if page == pages[0]]
    numbers = [name for name in first if name.endswith(("-numbers", "-losses"))]
    assert len(numbers) == 10 and sum(name.endswith("-reflection") for name in first) == 1
    assert len(first) - len(numbers) - 1 == 36


@pytest.mark.parametrize("page", PAGES)
def test_every_deliverable_has_its_place(page: str) -> None:
    """Once, in order, and nothing that is not listed; each with its question, and a command or a link."""
    found = sections(page)
    assert [name for name, _ in found] == [name for name, where, _ in listed() if where == page]
    for name, below in found:
        assert shown(page).count(f"`{name}`") == 1, name
        assert "*Asked" in below, f"{name}: the question is missing"
        assert COMMAND.search(below) or LINK.search(below), f"{name} has neither a command nor a link"


@pytest.mark.parametrize("page", [*PAGES, "docs/commands.md"])
def test_every_command_can_be_given(page: str) -> None:
    given = commands(page)
    assert len(given) >= 10
    for module, arguments in given:
        assert importlib.util.find_spec(module), module
        assert all(name in MODELS for flag, name in itertools.pairwise(arguments) if flag == "--model"), (
            arguments
        )
        if module == "inference.svi":
            parse(arguments)  # raises for what the model does not take
        elif module == "inference.sweep":
            for run in runs_of(arguments):
                parse(run)
        else:
            flags = {word.partition("=")[0] for word in arguments if word.startswith("--")}
            assert not flags or flags <= options_of(module), f"{module} takes no {flags - options_of(module)}"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_where_they_say(page: str) -> None:
    links, folder = LINK.findall(shown(page)), (ROOT / page).parent
    assert links
    for words, link in links:
        path, _, anchor = link.partition("#")
        target = (folder / path).resolve() if path else ROOT / page
        if target.parent.name == "derivations" and not target.parent.exists():
            continue
        assert target.exists(), link
        if (
            target.suffix == ".py"
        ):  # it holds what it is named after: `densities.normal`, `test_normal`, `vae`
            for name in re.findall(r"`[\w.]*?(\w+)`", words):
                assert name == target.stem or re.search(rf"\b{name}\b", target.read_text()), (name, link)
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), flags=re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert anchor in slugs, link


@pytest.mark.parametrize("page", PAGES)
def test_published_results_that_are_named_exist(page: str) -> None:
    names = [name for found in PUBLISHED.findall(shown(page)) for name in spelt_out(found)]
    assert names
    for name in names:
        assert list((ROOT / "runs" / "published").glob(name)), name


def spelt_out(name: str) -> list[str]:
    """a-{0,1}.json as a-0.json and a-1.json."""
    braces = EXPANDED.search(name)
    if not braces:
        return [name]
    return [end for word in braces[1].split(",") for end in spelt_out(name.replace(braces[0], word, 1))]
