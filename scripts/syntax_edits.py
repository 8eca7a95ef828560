"""Edits of one function's syntax tree, found by pattern, so that layout, comments and local names do not matter.

A pattern is Python in Semgrep's notation. `$X` stands for any one expression, statement or attribute, and for the same
one wherever it occurs again, also in the new code. `...` stands for any arguments or statements. Keyword arguments
match in any order. An edit is one of these:

    never = PATTERN                 the condition, or a part of it, is False
    always = PATTERN                it is True
    drop = PATTERN                  the statements go
    replace = PATTERN, put = CODE   the expression or the statements become CODE
    insert = CODE, before = PATTERN (or after = PATTERN)
    move = PATTERN, before = PATTERN
    becomes = CODE                  the function's body, or a constant's value
    text = WORDS, put = WORDS       in a string literal, for SQL

A pattern must match exactly once in the function; `nth` (from 1) chooses where the code says a thing twice.
"""

import ast
import builtins
import copy
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

_META = "META_"
_IGNORED_FIELDS = {"ctx", "kind", "type_comment", "annotation", "returns", "type_params"}
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
Bindings = dict[str, Any]
T = TypeVar("T")


class EditError(Exception):
    """The edit does not fit the source; the text says where and how."""


class NoSuchName(EditError):
    """The function or constant is not there."""


@dataclass(frozen=True, slots=True)
class _Expression:
    """A place where an expression stands."""

    parent: ast.AST
    field: str
    index: int | None

    def put(self, node: ast.expr) -> None:
        if self.index is None:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.index] = node


@dataclass(frozen=True, slots=True)
class _Statements:
    """A run of statements in a block."""

    block: list[ast.stmt]
    start: int
    end: int

    def put(self, nodes: Sequence[ast.stmt]) -> None:
        self.block[self.start : self.end] = nodes
        if not self.block:
            self.block.append(ast.Pass())


def edited(text: str, name: str, edit: Mapping[str, str], *, nth: int | None = None) -> str:
    """The module `text` with `edit` made in its function, method or constant `name`.

    Raises: EditError: there is no such name, the edit is none of the list above, or its pattern does not match once.
    """
    source, statements = _read(text)
    target = _find(source, name)
    place = next(n for n, statement in enumerate(source.body) if target.lineno <= (statement.end_lineno or 0))
    before = source.body[place - 1].end_lineno or 0 if place else 0
    lines = text.split("\n")[before : source.body[place].end_lineno]
    tree = ast.parse("\n" * before + "\n".join(lines))  # on the same lines, for what is reported
    new_code = _apply(_find(tree, name), edit, nth)
    if new_code:
        _check_names(ast.Module(body=new_code, type_ignores=[]), target, source)
    wrong = ast.unparse(tree)
    if wrong == statements[place]:
        raise EditError("the edit changes nothing")
    return "\n".join([*statements[:place], wrong, *statements[place + 1 :]])


@cache
def _read(text: str) -> tuple[ast.Module, list[str]]:
    """The tree of a module, and its statements as the tree says them: to read and write one is a tenth of the work."""
    tree = ast.parse(text)
    return tree, [ast.unparse(statement) for statement in tree.body]


def names_in(text: str) -> Iterator[str]:
    """Every name that an edit may be made in: `function`, `Class.method`, `function.inner`, `CONSTANT`."""
    for name, _ in _definitions(ast.parse(text), ""):
        yield name


def _find(tree: ast.Module, name: str) -> ast.stmt:
    found = dict(_definitions(tree, ""))  # of overloads the last: the implementation
    if name not in found:
        similar = difflib.get_close_matches(name, found, n=5, cutoff=0.4)
        raise NoSuchName(f"there is no {name} in this file; similar: {', '.join(similar) or 'nothing'}")
    return found[name]


def _definitions(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.stmt]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Definition):
            yield prefix + child.name, child
            yield from _definitions(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.Assign | ast.AnnAssign) and isinstance(node, ast.Module | ast.ClassDef):
            targets = child.targets if isinstance(child, ast.Assign) else [child.target]
            yield from ((prefix + target.id, child) for target in targets if isinstance(target, ast.Name))
        elif isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
            yield from _definitions(child, prefix)


# --- the edits ------------------------------------------------------------------------------------------------


def _apply(target: ast.AST, edit: Mapping[str, str], nth: int | None) -> list[ast.stmt]:
    """Make the edit; returns the new code that is not the source's own."""
    match sorted(edit.items()):
        case [("never", pattern)]:
            _one_expression(target, pattern, nth)[0].put(ast.Constant(value=False))
        case [("always", pattern)]:
            _one_expression(target, pattern, nth)[0].put(ast.Constant(value=True))
        case [("drop", pattern)]:
            _one_run(target, pattern, nth)[0].put([])
        case [("put", code), ("replace", pattern)]:
            return _replace(target, pattern, code, nth)
        case [("before", pattern), ("insert", code)]:
            return _insert(target, pattern, code, nth, is_after=False)
        case [("after", pattern), ("insert", code)]:
            return _insert(target, pattern, code, nth, is_after=True)
        case [("before", goal), ("move", pattern)]:
            place, _ = _one_run(target, pattern, nth)
            moved = place.block[place.start : place.end]
            place.put([])
            goal_place, _ = _one_run(target, goal, None)
            goal_place.block[goal_place.start : goal_place.start] = moved
        case [("becomes", code)]:
            return _become(target, code)
        case [("put", new_words), ("text", words)]:
            _retell(target, words, new_words, nth)
        case _:
            raise EditError(f"no edit is made of {', '.join(sorted(edit)) or 'nothing'}")
    return []


def _replace(target: ast.AST, pattern: str, code: str, nth: int | None) -> list[ast.stmt]:
    new = _parsed(code)
    if _is_expression(pattern) and _is_expression(code):
        place, bindings = _one_expression(target, pattern, nth)
        place.put(_filled(new[0], bindings).value)
    else:
        run, bindings = _one_run(target, pattern, nth)
        run.put(_filled(new, bindings))
    return new


def _insert(target: ast.AST, pattern: str, code: str, nth: int | None, *, is_after: bool) -> list[ast.stmt]:
    run, bindings = _one_run(target, pattern, nth)
    at = run.end if is_after else run.start
    new = _parsed(code)
    run.block[at:at] = _filled(new, bindings)
    return new


def _become(target: ast.AST, code: str) -> list[ast.stmt]:
    new = _parsed(code)
    if isinstance(target, ast.FunctionDef | ast.AsyncFunctionDef):
        target.body = copy.deepcopy(new)
    elif isinstance(target, ast.Assign | ast.AnnAssign) and isinstance(new[0], ast.Expr):
        target.value = copy.deepcopy(new[0].value)
    else:
        raise EditError("only a function's body or a constant's value can become something else")
    return new


def _retell(target: ast.AST, words: str, new_words: str, nth: int | None) -> None:
    found = []
    for node in ast.walk(target):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found += [(node.lineno, (node, node.value))] * node.value.count(words)
    literal, value = _chosen(found, nth, f"the text {words!r}")
    literal.value = value.replace(words, new_words)


# --- finding --------------------------------------------------------------------------------------------------


def _one_expression(target: ast.AST, pattern: str, nth: int | None) -> tuple[_Expression, Bindings]:
    if not _is_expression(pattern):
        raise EditError(f"the pattern {pattern!r} is no expression")
    wanted = _parsed(pattern)[0].value  # type: ignore[attr-defined]
    found = []
    for parent in ast.walk(target):
        for field, value in ast.iter_fields(parent):
            if field in _IGNORED_FIELDS or field == "decorator_list":
                continue
            for index, node in enumerate(value if isinstance(value, list) else [value]):
                bindings: Bindings = {}
                if isinstance(node, ast.expr) and _matches(wanted, node, bindings):
                    place = _Expression(parent, field, index if isinstance(value, list) else None)
                    found.append((node.lineno, (place, bindings)))
    return _chosen(found, nth, f"the pattern {pattern!r}")


def _one_run(target: ast.AST, pattern: str, nth: int | None) -> tuple[_Statements, Bindings]:
    wanted = _parsed(pattern)
    found = []
    for node in ast.walk(target):
        for block in (value for _, value in ast.iter_fields(node) if isinstance(value, list)):
            for start in range(len(block)):
                if not isinstance(block[start], ast.stmt):
                    break
                for end in range(start + 1, len(block) + 1):
                    bindings: Bindings = {}
                    if _all_match(wanted, block[start:end], bindings):
                        found.append((block[start].lineno, (_Statements(block, start, end), bindings)))
                        break
    return _chosen(found, nth, f"the pattern {pattern!r}")


def _chosen(found: Sequence[tuple[int, T]], nth: int | None, what: str) -> T:
    """The one that is meant of what stands at these lines."""
    if nth is None and len(found) == 1:
        return found[0][1]
    if nth is not None and 1 <= nth <= len(found) > 1:
        return found[nth - 1][1]
    where = f" (lines {', '.join(str(line) for line, _ in found)})" if found else ""
    raise EditError(
        f"{what} matches {len(found)} times{where}, not {'once' if nth is None else f'{nth} times or more'}"
    )


# --- patterns -------------------------------------------------------------------------------------------------


def _parsed(code: str) -> list[ast.stmt]:
    try:
        return ast.parse(re.sub(r"\$(\w+)", _META + r"\1", code.strip())).body
    except SyntaxError as exc:
        raise EditError(f"this is not Python: {code!r} ({exc.msg})") from None


def _is_expression(code: str) -> bool:
    statements = _parsed(code)
    return len(statements) == 1 and isinstance(statements[0], ast.Expr)


def _meta_name(node: Any) -> str | None:
    """The name of a `$NAME` that stands for a whole expression, statement or identifier."""
    if isinstance(node, ast.Expr):
        node = node.value
    if isinstance(node, ast.Name):
        node = node.id
    return node if isinstance(node, str) and node.startswith(_META) else None


def _is_rest(node: Any) -> bool:
    """Whether it is `...`."""
    if isinstance(node, ast.Expr):
        node = node.value
    return isinstance(node, ast.Constant) and node.value is Ellipsis


def _matches(wanted: Any, node: Any, bindings: Bindings) -> bool:
    meta = _meta_name(wanted)
    if meta is not None and node is not None and isinstance(wanted, str) == isinstance(node, str):
        if isinstance(wanted, ast.Expr) and isinstance(node, ast.Expr):
            node = node.value
        return _same(bindings.setdefault(meta, node), node)
    if isinstance(wanted, ast.Call) and isinstance(node, ast.Call):
        return _calls_match(wanted, node, bindings)
    if isinstance(wanted, list) and isinstance(node, list):
        return _all_match(wanted, node, bindings)
    if isinstance(wanted, ast.AST):
        return type(wanted) is type(node) and all(
            _matches(getattr(wanted, field, None), getattr(node, field, None), bindings)
            for field in wanted._fields
            if field not in _IGNORED_FIELDS
        )
    return type(wanted) is type(node) and wanted == node


def _calls_match(wanted: ast.Call, node: ast.Call, bindings: Bindings) -> bool:
    if not (_matches(wanted.func, node.func, bindings) and _all_match(wanted.args, node.args, bindings)):
        return False
    by_name = {keyword.arg: keyword.value for keyword in node.keywords}
    if not any(map(_is_rest, wanted.args)) and len(wanted.keywords) != len(node.keywords):
        return False
    return all(
        keyword.arg in by_name and _matches(keyword.value, by_name[keyword.arg], bindings)
        for keyword in wanted.keywords
    )


def _all_match(wanted: Sequence[Any], nodes: Sequence[Any], bindings: Bindings) -> bool:
    if not wanted:
        return not nodes
    if _is_rest(wanted[0]):
        for taken in range(len(nodes) + 1):
            trial = dict(bindings)
            if _all_match(wanted[1:], nodes[taken:], trial):
                bindings.update(trial)
                return True
        return False
    return bool(nodes) and _matches(wanted[0], nodes[0], bindings) and _all_match(wanted[1:], nodes[1:], bindings)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, ast.AST) and isinstance(other, ast.AST):
        return ast.unparse(one) == ast.unparse(other)
    return bool(one == other)


def _filled(code: Any, bindings: Bindings) -> Any:
    """New code with what its `$NAMES` stand for."""
    meta = _meta_name(code)
    if meta is not None:
        if meta not in bindings:
            raise EditError(f"${meta.removeprefix(_META)} is not in the pattern")
        value = copy.deepcopy(bindings[meta])
        if isinstance(code, ast.Expr) and isinstance(value, ast.expr):
            return ast.Expr(value=value)
        return value
    if isinstance(code, list):
        return [_filled(item, bindings) for item in code]
    if isinstance(code, ast.AST):
        fields = {field: _filled(value, bindings) for field, value in ast.iter_fields(code)}
        return ast.copy_location(type(code)(**fields), code)
    return code


# --- new code must be wrong as meant, not by a name that is gone --------------------------------------------------


def _check_names(code: ast.AST, target: ast.AST, tree: ast.Module) -> None:
    """Raises: EditError: the new code reads a name, or an attribute of `self`, that the source does not have."""
    known = set(dir(builtins)) | _names_of(target) | _names_at_top(tree) | _names_of(code, stored_only=True)
    attributes = _attributes_in(tree)
    for node in ast.walk(code):
        match node:
            case ast.Name(id=name) if not name.startswith(_META) and name not in known:
                raise EditError(f"the new code names {name}, which is not known there")
            case ast.Attribute(value=ast.Name(id="self"), attr=name) if name not in attributes:
                raise EditError(f"the new code names self.{name}, which this file does not have")


@cache
def _attributes_in(tree: ast.Module) -> set[str]:
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return attributes | {node.name for node in ast.walk(tree) if isinstance(node, Definition)}


def _names_of(node: ast.AST, *, stored_only: bool = False) -> set[str]:
    found: set[str] = set()
    for child in ast.walk(node):
        if isinstance(child, ast.Name) and (isinstance(child.ctx, ast.Store) or not stored_only):
            found.add(child.id)
        elif isinstance(child, ast.arg):
            found.add(child.arg)
        elif isinstance(child, ast.alias):
            found.add((child.asname or child.name).partition(".")[0])
        elif isinstance(child, ast.MatchAs | ast.ExceptHandler | Definition) and child.name is not None:
            found.add(child.name)
    return found


def _names_at_top(tree: ast.Module) -> set[str]:
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, Definition):
            found.add(node.name)
        else:
            found |= _names_of(node)
    return found
