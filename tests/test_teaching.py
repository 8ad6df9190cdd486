"""The pages for teachers name every derivation, exercise and open question, and give the right points."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import exercises.checking.topics  # registers the exercises  # noqa: F401
from exercises import check
from exercises.checking import files
from exercises.checking.run import EXERCISES
from tests.test_docs import DERIVATIONS, ROOT

PLAN = (ROOT / "docs" / "teaching.md").read_text("utf-8")
NOTES = (ROOT / "docs" / "marking.md").read_text("utf-8")
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))
DERIVATION = re.compile(r"\(derivations/(\d\d)-")
EXERCISE = re.compile(r"\(\.\./exercises/(\d\d)_")
BUGS = {  # exercise: the rows that are wrong in the file as it is
    "17": ["kl_z"],
    "18": ["log w"],
    "19": ["kl_z"],
    "20": ["reconstruction"],
    "21": ["dequantise", "bits per dimension"],
    "22": ["log p(x)"],
}


def rows(text: str, heading: str) -> Iterator[list[str]]:
    """Yields the cells of each row of the first table below a heading."""
    below = text.partition(f"\n{heading}\n")[2].split("\n")
    start = next(i for i, line in enumerate(below) if line.startswith("|---"))
    for line in below[start + 1 :]:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in line.strip("|").split(" | ")]


def needed(number: str) -> list[str]:
    """Returns the derivations in the line "What it needs" of a derivation."""
    (page,) = DERIVATIONS.glob(f"{number}-*.md")
    line = page.read_text("utf-8").partition("**What it needs.**")[2].partition("\n\n")[0]
    return sorted(set(re.findall(r"\((\d\d)-", line)))


def prose(path: Path) -> str:
    """Returns the Markdown of a notebook."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def test_the_dependencies_are_those_that_the_pages_name() -> None:
    found = list(rows(PLAN, "## Which derivation needs which"))
    numbers = sorted(page.name[:2] for page in DERIVATIONS.glob("[0-9]*.md"))
    assert [DERIVATION.findall(cells[0])[0] for cells in found] == numbers
    for page, title, *links in found:
        (number,) = DERIVATION.findall(page)
        (path,) = DERIVATIONS.glob(f"{number}-*.md")
        assert path.read_text("utf-8").startswith(f"# {title}\n")
        assert sorted(DERIVATION.findall(" ".join(links[:2]))) == needed(number), number


@pytest.mark.parametrize("plan", ["A course of 12 weeks", "A short course of 4 weeks"])
def test_a_week_needs_only_pages_that_have_been_read(plan: str) -> None:
    short = "short" in plan
    read = {"03"} if short else set()  # the short course leaves out full covariances, which need page 3
    solved = []
    for _, _, pages, tutorials, given, *_ in rows(PLAN, f"## {plan}"):
        for number in DERIVATION.findall(pages):
            assert set(needed(number)) <= read, number
            read.add(number)
        for number in EXERCISE.findall(given):
            assert EXERCISES[number].page[:2] in read, number
            solved.append(number)
        for part in tutorials.split("; "):
            for title in re.findall(r'"(.*?)"', part):
                (name,) = re.findall(r"\(tutorials/(.*?)\)", part)
                assert f"\n## {title}\n" in prose(ROOT / "docs" / "tutorials" / name), title
    if not short:
        assert read == {page.name[:2] for page in DERIVATIONS.glob("[0-9]*.md")}
        assert sorted(solved) == list(files.numbers())


def test_every_exercise_has_the_points_of_its_rows() -> None:
    found = list(rows(NOTES, "## The exercises"))
    assert [EXERCISE.findall(cells[0])[0] for cells in found] == list(files.numbers())
    for number, (*_, points) in zip(files.numbers(), found, strict=True):
        solved = [row for row in check(number, files.solution(number)).rows if "objective" not in row.term]
        counted = [row for row in solved if number not in BUGS or row.term in BUGS[number]]
        expected = sum(1 + (row.gradient_difference is not None) for row in counted)
        assert int(points) == expected + 2 * (number in BUGS), number


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_every_question_of_a_tutorial_has_a_model_answer(path: Path) -> None:
    text = prose(path)
    title = text.partition("\n")[0].removeprefix("# ")
    asked = re.split(r"^## Exercises?$", text, flags=re.MULTILINE)[1].partition("\n## The published")[0]
    # The question of a cell with a TODO has a check.
    numbers = [
        number for number, line in re.findall(r"^(\d)\. (.*)", asked, re.MULTILINE) if "TODO" not in line
    ]
    answered = [cells[0][0] for cells in rows(NOTES, f"### Tutorial {int(path.name[:2])}: {title}")]
    assert answered == numbers != []
