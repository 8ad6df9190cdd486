"""The small mistakes that a file can have: one change of an expression or a statement each."""

import ast
import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt},
    **{ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is},
    **{ast.In: ast.NotIn, ast.NotIn: ast.In},
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult},
    **{ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr},
}


class Mutation(NamedTuple):
    """One change of a file.

    Attributes:
        path: of the file, relative to the project.
        first: the line on which the changed statement begins.
        line: the line on which the change ends.
        start: where the change begins, in bytes.
        end: where it ends.
        before: the code that is replaced, in one line.
        after: the code in its place.
        scope: the class and the function around it, such as `Loss.__init__`; empty outside of them.
        number: how many changes before this one in the file have the same scope and code.
    """

    path: str
    first: int
    line: int
    start: int
    end: int
    before: str
    after: str
    scope: str = ""
    number: int = 0

    @property
    def key(self) -> str:
        """A name of the change in its file that stays the same when other code of the file changes."""
        described = "\0".join((self.scope, self.before, self.after, str(self.number)))
        return hashlib.sha256(described.encode()).hexdigest()[:8]

    @property
    def order(self) -> str:
        """Random numbers that sort the changes of the project, the same ones in every call."""
        return hashlib.sha256(f"{self.path} {self.key}".encode()).hexdigest()

    def apply(self, content: bytes) -> bytes:
        """Returns the content of the file with this change."""
        return content[: self.start] + self.after.encode() + content[self.end :]

    def __str__(self) -> str:
        return f"{self.path}:{self.first}: {self.described}"

    @property
    def described(self) -> str:
        """The function, and the code before and after."""
        where = f"{self.scope}: " if self.scope else ""
        return f"{where}`{self.before:.100}` -> `{self.after:.100}`"


def mutations(root: Path, path: str) -> list[Mutation]:
    """Returns all mutations of a file, in the order of the code.

    Args:
        root: the folder of the project.
        path: the file, relative to it.
    """
    content = (root / path).read_bytes()
    finder = _Finder(path, content)
    finder.visit(ast.parse(content))
    found, seen = list[Mutation](), Counter[tuple[str, str, str]]()
    for each in sorted(set(finder.found), key=lambda each: (each.start, each.end, each.after)):
        same = each.scope, each.before, each.after
        found.append(each._replace(number=seen[same]))
        seen[same] += 1
    return found


class _Finder(ast.NodeVisitor):
    """Collects the mutations of a file.

    Left alone are texts that people read (docstrings, and strings with a space), annotations, decorators,
    imports, assertions, what `raise` says, and the parts of f-strings.
    """

    def __init__(self, path: str, content: bytes) -> None:
        self.path, self.content, self.found = path, content, list[Mutation]()
        self.starts = [0]  # of each line, in bytes
        for line in content.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.statement = 1
        self.scope = list[str]()

    def change(self, node: ast.expr | ast.stmt, after: ast.AST | str) -> None:
        """Adds the mutation that puts other code in place of a node."""
        assert node.end_lineno is not None and node.end_col_offset is not None
        start = self.starts[node.lineno - 1] + node.col_offset
        end = self.starts[node.end_lineno - 1] + node.end_col_offset
        text = after if isinstance(after, str) else ast.unparse(after)
        if isinstance(after, ast.expr):
            text = f"({text})"
        before = " ".join(self.content[start:end].decode().split())
        place = self.path, self.statement, node.end_lineno, start, end
        self.found.append(Mutation(*place, before, text, ".".join(self.scope)))

    def visit(self, node: ast.AST) -> None:
        """Visits a node, and remembers the innermost statement."""
        outer = self.statement
        if isinstance(node, ast.stmt):
            self.statement = node.lineno
        super().visit(node)
        self.statement = outer

    def visit_all(self, nodes: list[ast.expr] | list[ast.stmt] | list[ast.expr | None]) -> None:
        """Visits a list of nodes."""
        for node in nodes:
            if node is not None:
                self.visit(node)

    def ignore(self, node: ast.AST) -> None:
        """Leaves a node as it is."""

    visit_Import = visit_ImportFrom = visit_Assert = visit_JoinedStr = ignore
    visit_Global = visit_Nonlocal = visit_Delete = ignore

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """The defaults and the body, without decorators and annotations."""
        self.scope.append(node.name)
        self.visit_all(node.args.defaults)
        self.visit_all(node.args.kw_defaults)
        self.visit_all(node.body)
        self.scope.pop()

    def visit_Lambda(self, node: ast.Lambda) -> None:
        """The defaults and the body."""
        self.visit_all(node.args.defaults)
        self.visit(node.body)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """The body."""
        self.scope.append(node.name)
        self.visit_all(node.body)
        self.scope.pop()

    def visit_Assign(self, node: ast.Assign) -> None:
        """An attribute or an element is not set."""
        if all(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets):
            self.change(node, "pass")
        self.visit(node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """The value."""
        if node.value is not None:
            self.visit(node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        """Another operator."""
        if type(node.op) in OPERATORS:
            self.change(node, ast.AugAssign(node.target, OPERATORS[type(node.op)](), node.value))
        self.visit(node.value)

    def visit_Expr(self, node: ast.Expr) -> None:
        """A call that is left out. Docstrings stay."""
        if isinstance(node.value, ast.Call):
            self.change(node, "pass")
        if not isinstance(node.value, ast.Constant):
            self.visit(node.value)

    def visit_Raise(self, node: ast.Raise) -> None:
        """Nothing is raised."""
        self.change(node, "pass")

    def visit_Return(self, node: ast.Return) -> None:
        """None is returned."""
        if node.value is not None and not (isinstance(node.value, ast.Constant) and node.value.value is None):
            self.change(node, "return None")
            self.visit(node.value)

    def visit_Break(self, node: ast.Break) -> None:
        """A loop continues."""
        self.change(node, "continue")

    def visit_Continue(self, node: ast.Continue) -> None:
        """A loop ends."""
        self.change(node, "break")

    def visit_If(self, node: ast.If) -> None:
        """The opposite condition."""
        if ast.unparse(node.test) in ("TYPE_CHECKING", "__name__ == '__main__'"):
            return
        self.negate(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        """The opposite condition."""
        self.negate(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        """The opposite conditions."""
        for condition in node.ifs:
            self.negate(condition)
        self.generic_visit(node)

    def negate(self, condition: ast.expr) -> None:
        """Adds the opposite of a condition, unless another mutation is just that."""
        simple = isinstance(condition, ast.Compare) and len(condition.ops) == 1
        if not simple and not (isinstance(condition, ast.UnaryOp) and isinstance(condition.op, ast.Not)):
            self.change(condition, ast.UnaryOp(ast.Not(), condition))

    def visit_Compare(self, node: ast.Compare) -> None:
        """Another comparison, and the opposite of `<` and its like."""
        opposite = {ast.Lt: ast.GtE, ast.LtE: ast.Gt, ast.Gt: ast.LtE, ast.GtE: ast.Lt}
        for i, op in enumerate(node.ops):
            for kind in (COMPARISONS[type(op)], opposite.get(type(op))):
                if kind is not None:
                    ops = [*node.ops[:i], kind(), *node.ops[i + 1 :]]
                    self.change(node, ast.Compare(node.left, ops, node.comparators))
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        """Another operator. `X | None` is a type."""
        optional = isinstance(node.right, ast.Constant) and node.right.value is None
        if type(node.op) in OPERATORS and not optional:
            self.change(node, ast.BinOp(node.left, OPERATORS[type(node.op)](), node.right))
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        """`or` for `and`, and `and` for `or`."""
        self.change(node, ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values))
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        """Without `not` or the minus."""
        if isinstance(node.op, ast.Not | ast.USub | ast.Invert):
            self.change(node, node.operand)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        """Without one of the arguments that have a name."""
        for keyword in node.keywords:
            if keyword.arg is not None:
                rest = [other for other in node.keywords if other is not keyword]
                self.change(node, ast.Call(node.func, node.args, rest))
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        """The opposite truth value, the next number, or another name."""
        value = node.value
        if isinstance(value, bool):
            self.change(node, ast.Constant(not value))
        elif isinstance(value, int | float):
            self.change(node, ast.Constant(value + 1))
        elif isinstance(value, str) and not any(letter.isspace() for letter in value):
            self.change(node, ast.Constant(f"XX{value}"))


def files(root: Path, named: str) -> Iterator[str]:
    """Yields the Python files of a package or a file, relative to the project.

    Args:
        root: the folder of the project.
        named: a folder or a file, relative to it.
    """
    path = root / named
    found = [path] if path.is_file() else sorted(path.rglob("*.py"))
    return (str(each.relative_to(root)) for each in found)
