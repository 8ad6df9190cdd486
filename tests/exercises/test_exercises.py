"""The empty exercise fails with a message, the solution passes, typical mistakes get their hint."""

import hashlib
import math
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

import exercises.check as command
import exercises.checking.topics  # registers the exercises  # noqa: F401
from exercises import TODO, check
from exercises.checking import files
from exercises.checking.bounds import original
from exercises.checking.rows import EMPTY, NO_GRADIENT, SIGN, UNKNOWN, Row, judge, row
from exercises.checking.run import EXERCISES
from inference.errors import UserError
from ppl_models import ELBOTerms, densities
from ppl_models.nets.heads import loc_scale

NUMBERS = files.numbers()
ROOT = Path(__file__).parents[2]
DIGESTS = Path(__file__).parent / "empty_exercises.sha256"  # .ci/run checks that these are the files'


def wrong_answers(number: str) -> list[tuple[str, str, str, str]]:
    """Returns each wrong answer: the part of our solution, what is written instead, the term, its hint."""
    found = []
    for block in (Path(__file__).parent / "wrong_answers.txt").read_text("utf-8").split("\n\n"):
        head, *lines = block.strip("\n").split("\n")
        if head.startswith(f"{number} "):
            part, instead = ("\n".join(line[2:] for line in lines if line[0] == sign) for sign in "-+")
            term, fragment = head[3:].split(": ", 1)
            found.append((part, instead, term, fragment))
    return found


def finds_a_bug(number: str) -> bool:
    """Returns whether an exercise is complete, with one mistake to find."""
    return "find_the_bug" in files.student_file(number).name


def empty_exercise(number: str) -> Path:
    """Returns the file of an exercise, and skips the test if somebody has worked on it."""
    path = files.student_file(number)
    line = f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}"
    if line not in DIGESTS.read_text().splitlines():
        pytest.skip(f"exercises/{path.name} has an answer. This test needs the empty exercise.")
    return path


@pytest.mark.parametrize("number", NUMBERS)
def test_the_solution_passes(number: str) -> None:
    solved = check(number, files.solution(number))
    assert solved.solved, str(solved)
    assert all(
        judged.value_difference <= 1e-9 for judged in solved.rows if judged.value_difference is not None
    )


@pytest.mark.parametrize("number", NUMBERS)
def test_the_empty_exercise_fails_with_a_message_for_every_term(number: str) -> None:
    empty, solved = check(number, empty_exercise(number)), check(number, files.solution(number))
    wrong = [judged for judged in empty.rows if not judged.right and not judged.term.startswith("objective")]
    if not finds_a_bug(number):
        assert len(wrong) == len(empty.rows) and {judged.hint for judged in wrong} == {EMPTY}
    else:  # find the bug: the terms with the bug are wrong, and the hint is about this bug
        assert wrong and all(judged.hint not in (EMPTY, UNKNOWN, SIGN) for judged in wrong)
    assert [judged.term for judged in solved.rows if not judged.term.startswith("objective")] == [
        judged.term for judged in empty.rows if not judged.term.startswith("objective")
    ]


@pytest.mark.full
@pytest.mark.parametrize("number", NUMBERS)
def test_typical_wrong_answers_get_their_hint(number: str, tmp_path: Path) -> None:
    solution, wrong = files.solution(number).read_text("utf-8"), tmp_path / "answer.py"
    assert len(wrong_answers(number)) >= 5
    for part, instead, term, fragment in wrong_answers(number):
        assert part in solution
        wrong.write_text(solution.replace(part, instead), "utf-8")
        found = {judged.term: judged.hint for judged in check(number, wrong).rows}
        assert fragment in found[term], f"{instead}: {found[term]}"


def test_every_derivation_links_to_a_notebook() -> None:
    notebook = re.compile(
        r"^(?:Tutorial|Notebook): \[[^]]+\]\((\.\./(?:tutorials|courses)/[\w-]+\.ipynb)\)", re.MULTILINE
    )
    for page in (ROOT / "docs" / "derivations").glob("[0-9]*.md"):
        found = notebook.findall(page.read_text("utf-8"))
        assert found, f"{page.name} has no link to a notebook"
        assert all((page.parent / target).is_file() for target in found), page.name


def test_every_derivation_has_an_exercise_and_both_link_to_each_other() -> None:
    table = (ROOT / "exercises" / "README.md").read_text("utf-8")
    assert [number for number in NUMBERS if finds_a_bug(number)] == ["17", "18", "19", "20", "21", "22"]
    pages = {path.name for path in (ROOT / "docs" / "derivations").glob("[0-9]*.md")}
    assert pages == {EXERCISES[number].page for number in NUMBERS if not finds_a_bug(number)}
    for number in NUMBERS:
        name, page = files.student_file(number).name, EXERCISES[number].page
        assert files.solution(number).name == name
        assert re.search(
            rf"^\| \[{number}\]\({name}\) .*\(\.\./docs/derivations/{page}\)", table, re.MULTILINE
        )
        assert page in files.student_file(number).read_text("utf-8")
        if not finds_a_bug(number):  # after page 16 the number is that of the page plus the six bugs
            assert int(page[:2]) == int(number) - (6 if number > "16" else 0)
            assert f"(../../exercises/{name})" in (ROOT / "docs" / "derivations" / page).read_text("utf-8")


@pytest.mark.parametrize("number", NUMBERS)
def test_a_solution_is_the_student_s_file_without_its_todos(number: str) -> None:
    paths = empty_exercise(number), files.solution(number)
    student, solution = (path.read_text("utf-8") for path in paths)
    assert ("TODO" in student) != finds_a_bug(number) and "TODO" not in solution
    signatures = [re.findall(r"^ *(?:class|def) .*$", text, re.MULTILINE) for text in (student, solution)]
    assert signatures[0] == signatures[1]


def test_the_command_s_exit_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = empty_exercise("04").read_bytes()
    assert command.main(["4"]) == 1
    assert "Not yet. Right terms: 0 of 3." in capsys.readouterr().out
    assert command.main(["04", "--solution"]) == 0
    printed = capsys.readouterr().out
    assert "kl_z = log_q - log_p" in printed and "Solved." in printed
    assert command.main(["04", str(files.solution("04"))]) == 0
    assert files.student_file("04").read_bytes() == before
    broken = tmp_path / "broken.py"
    broken.write_text("def bound(:\n")
    for arguments, message in {
        ("99",): "no exercise '99'. Choose one from the list of python -m exercises.check.",
        ("04", str(tmp_path / "gone.py")): "is not a Python file",
        ("04", str(broken)): "line 1",
        ("04", str(files.solution("02"))): "defines no bound",
        ("--solution",): "needs a number",
        ("04", str(broken), "--solution"): "exclude each other",
    }.items():
        with pytest.raises(UserError, match=re.escape(message)):
            command.main(list(arguments))


@pytest.mark.full
def test_the_list_says_which_exercises_are_solved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = {number: empty_exercise(number) for number in NUMBERS} | {"03": files.solution("03")}
    monkeypatch.setattr(files, "student_file", paths.__getitem__)
    assert command.main([]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[2] == "03  solved   change of variables"
    assert printed[3].startswith("04  not yet") and printed[-1] == f"1 of {len(NUMBERS)} solved"


def test_a_function_of_a_notebook_is_checked_and_shown_as_a_table() -> None:
    def bound(self, x: Tensor, latents: dict[str, Tensor], *, kl: str = "closed") -> ELBOTerms:
        loc, scale = loc_scale(self.encoder(x))
        reconstruction = -densities.bernoulli(x, self.decoder(latents["z"]))
        return ELBOTerms(reconstruction=reconstruction, kl_z=densities.kl_normal_standard(loc, scale))

    result = check(4, bound=bound)
    assert [judged.term for judged in result.rows if not judged.right] == [
        "kl_z (sampled)",
        "objective (trace)",
    ]
    shown = result._repr_html_()
    assert shown.count("<tr>") == 1 + len(result.rows)
    assert "<b>kl_z (sampled)</b>: kl=&quot;sampled&quot; asks for log q(z | x) - log p(z)" in shown
    with pytest.raises(UserError, match="no answer bounds"):
        check("04", bounds=bound)


def test_a_changed_model_does_not_change_the_truth(tmp_path: Path) -> None:
    answer = tmp_path / "answer.py"
    source = files.solution("04").read_text("utf-8")
    changed = source.replace("dist.Normal(x.new_zeros(3), 1.0)", "dist.Normal(x.new_zeros(3), 2.0)")
    assert changed != source
    answer.write_text(changed)
    ours, theirs = check("04", files.solution("04")), check("04", answer)
    assert theirs.solved and [r.truth for r in theirs.rows] == [r.truth for r in ours.rows]


def test_a_method_of_the_student_is_used_and_an_error_names_its_line(tmp_path: Path) -> None:
    answer = tmp_path / "answer.py"
    source = files.solution("09").read_text("utf-8").replace("math.log(5)", "self.log_k()")
    method = "    def log_k(self):\n        return VALUE\n\n    def bound("
    for value, solved in (("math.log(5)", True), ("math.missing", False)):
        text = source.replace("    def bound(", method.replace("VALUE", value))
        answer.write_text(text)
        result = check("09", answer)
        assert result.solved == solved
    line = 1 + text[: text.index("math.missing")].count("\n")
    assert all(f"line {line}: AttributeError" in judged.hint for judged in result.rows)


def test_checks_leave_the_generator_and_the_precision() -> None:
    state = torch.get_rng_state()
    check("11")
    assert torch.equal(state, torch.get_rng_state()) and torch.get_default_dtype() == torch.float32
    assert original("11") is original("11")


# A row of two numbers and three data points: the generic hints.
X = torch.tensor([[1.0, 2.0], [0.5, -1.0], [3.0, 0.25]], dtype=torch.float64)


def truth(x: Tensor) -> Tensor:
    return (x**2).sum(-1)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (truth, ""),
        (lambda x: truth(x) * (1 + 1e-12), ""),
        (lambda x: truth(x) * (1 + 1e-7), "1 + 1e-07"),
        (lambda x: -truth(x), SIGN),
        (lambda x: truth(x) / 2, "1/2 of the right one: a mean over the dimensions"),
        (lambda x: 3 * truth(x), "3 times the right one everywhere"),
        (lambda x: truth(x) + math.pi, "same constant everywhere"),
        (lambda x: truth(x).detach(), NO_GRADIENT),
        (lambda x: truth(x).detach() + x.sum(-1) - x.sum(-1).detach(), "gradient is wrong"),
        (lambda x: truth(x).mean(), "too many axes"),
        (lambda x: (x**2).sum(0), "wrong axis"),
        (lambda x: x**2, "Sum over the remaining axes"),
        (lambda x: truth(x).mean().expand(3), "Keep the batch axis"),
        (lambda x: (x**3).sum(-1), UNKNOWN),
        (lambda x: (x - x).log().sum(-1), "infinite or not a number"),
        (lambda x: truth(x.detach().requires_grad_()), NO_GRADIENT),
        (lambda x: TODO, EMPTY),
        (lambda x: None, "returns NoneType"),
        (lambda x: x.missing, "stops with an error. AttributeError"),
        (lambda x: (x**4).sum(-1), "a square"),
    ],
)
def test_generic_hints(answer, hint: str) -> None:
    x = X.clone().requires_grad_()
    mistakes = {"You forgot a square root of a square.": lambda x: (x**4).sum(-1)}
    judged = judge(row("t", answer, (x,), truth, mistakes, {"dimensions": 2}), None)
    assert hint in judged.hint and judged.right == (hint == "")


def test_an_exchange_of_data_points_in_the_gradient_is_noticed() -> None:
    x = X.clone().requires_grad_()

    def exchanged() -> Tensor:
        value = truth(x)
        return value.detach() + value.flip(0) - value.flip(0).detach()

    judged = judge(Row("t", exchanged, lambda: truth(x), [x]), None)
    assert "gradient is wrong" in judged.hint and judged.value_difference == 0
