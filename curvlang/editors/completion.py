"""What can stand at a place, the fitting ones first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.source import Source, Span
from curvlang.editors.document import Document
from curvlang.editors.parameters import parameters_of
from curvlang.editors.reading import Frame, Item, Owner, Role, Word, read
from curvlang.editors.scope import in_scope, leaf_meaning, leaves_of, letters_of
from curvlang.editors.vocabulary import vocabulary
from curvlang.ir.functions import FUNCTIONS, MAKERS
from curvlang.ir.score_program import APPLY, CARRY, SOLVE
from curvlang.language.chain import Chain
from curvlang.language.checking.chains import Chains
from curvlang.language.checking.shipped import about
from curvlang.language.checking.walker import Walker
from curvlang.language.law import MEASURES, PROPERTIES
from curvlang.language.registry import BASELINES, NAMED, SOLVERS, SOURCES, STAGES, Parameter
from curvlang.language.registry.kind_words import in_words
from curvlang.language.registry.kinds import CurvatureName
from curvlang.language.syntax import nodes as s
from curvlang.language.syntax.parser import parse
from curvlang.language.syntax.problems import Problems

PLACEHOLDER = "xyz"
"""Stands for the word that is being typed, so that its role is known."""


class Rank(IntEnum):
    """The order in which candidates are shown."""

    FITS = 0
    OWN = 1
    SHIPPED = 2
    UNFIT = 3


@dataclass(frozen=True, slots=True)
class Candidate:
    """A word that can stand there: its role, one line about it, and its rank."""

    text: str
    role: Role
    detail: str = ""
    rank: Rank = Rank.SHIPPED


def complete(document: Document, offset: int) -> list[Candidate]:
    """Every candidate at an offset, in order; the editor filters them by what is typed."""
    start, end = _word_around(document.text, offset)
    text = document.text[:start] + PLACEHOLDER + document.text[end:]
    reading = read(text)
    item = reading.item_at(start)
    word = reading.word_at(start)
    if word is not None and word.role in (Role.COMMENT, Role.DOC):
        return []
    if item is None or word is None or word.start != start:
        if word is not None and word.role is Role.FILE:
            return list(_files(document))
        return _items()
    found = list(_candidates(document, text, item, word))
    if word.frame is None and not text[:start].rpartition("\n")[2].strip():
        found += _items()
    best: dict[str, Candidate] = {}
    for candidate in found:
        kept = best.get(candidate.text)
        best[candidate.text] = candidate if kept is None or candidate.rank < kept.rank else kept
    return sorted(best.values(), key=lambda c: (c.rank, c.text))


def _word_around(text: str, offset: int) -> tuple[int, int]:
    """Where the word at an offset starts and ends."""
    start = end = offset
    while start > 0 and (text[start - 1].isalnum() or text[start - 1] == "_"):
        start -= 1
    while end < len(text) and (text[end].isalnum() or text[end] == "_"):
        end += 1
    return start, end


def _items() -> list[Candidate]:
    return [Candidate(w, Role.KEYWORD, "a definition", Rank.FITS) for w in vocabulary().items]


def _candidates(document: Document, text: str, item: Item, word: Word) -> Iterator[Candidate]:
    match word.role:
        case Role.STAGE:
            yield from _stages(document, text, item, word)
        case Role.CURVATURE:
            yield from _curvatures(document)
            if item.keyword == "evaluate" and not _behind_of(item, word):
                yield from _table(document, document.names.scores, Role.SCORE)
        case Role.SCORE:
            yield from _scores(document, item)
        case Role.INVERSE:
            yield from _table(document, document.names.inverses, Role.INVERSE)
        case Role.TASK:
            yield from _table(document, document.names.tasks, Role.TASK)
        case Role.PART if word.owner is not None:
            yield from _parts(document, item, word.owner.part)
        case Role.SOLVER:
            for name, entry in SOLVERS.items():
                yield Candidate(name, Role.SOLVER, entry.doc)
        case Role.INDEX | Role.NAME if word.frame is Frame.INDICES:
            yield from _letters(item, text)
        case Role.VALUE | Role.ARGUMENT if (
            word.owner is not None and word.owner.role is not Role.DEFINITION
        ):
            yield from _in_arguments(document, item, word)
        case Role.VALUE if word.owner is not None:
            yield from _words_of(item, word.owner)
        case Role.TENSOR | Role.SCALAR | Role.FUNCTION:
            yield from _in_expression(item, text, word)
        case Role.NAME | Role.KEYWORD:
            yield from _loose(document, item)
        case _:
            pass


def _parts(document: Document, item: Item, line: str) -> Iterator[Candidate]:
    """What a line of a task or a study may name."""
    if line == "baselines":
        yield from _scores(document, item)
        return
    for name, entry in NAMED.get(line, {}).items():
        yield Candidate(name, Role.PART, entry.doc)


def _scores(document: Document, item: Item) -> Iterator[Candidate]:
    """Scores; in a study the baselines that are not formulas too."""
    yield from _table(document, document.names.scores, Role.SCORE)
    for name, entry in BASELINES.items() if item.keyword == "study" else ():
        yield Candidate(name, Role.PART, entry.doc)


def _table(
    document: Document,
    table: Mapping[str, s.InverseDef] | Mapping[str, s.TaskDef] | Mapping[str, s.ScoreDef],
    role: Role,
) -> Iterator[Candidate]:
    for name, definition in table.items():
        own = definition.span.source.name == document.name
        detail = " ".join(definition.span.text.partition("{")[0].split())
        yield Candidate(name, role, detail, Rank.OWN if own else Rank.SHIPPED)


def _behind_of(item: Item, word: Word) -> bool:
    """Whether an evaluation names its score already."""
    return any(w.text == "of" and w.end <= word.start for w in item.words)


def _curvatures(document: Document) -> Iterator[Candidate]:
    for name, entry in SOURCES.items():
        yield Candidate(name, Role.CURVATURE, entry.doc, Rank.OWN)
    for name, definition in document.names.curvatures.items():
        own = definition.span.source.name == document.name
        detail = " ".join(definition.body.span.text.split())
        yield Candidate(name, Role.CURVATURE, detail, Rank.OWN if own else Rank.SHIPPED)


# Stages --------------------------------------------------------------------------------------


def _stages(document: Document, text: str, item: Item, word: Word) -> Iterator[Candidate]:
    """Every stage: those that fit the chain so far first, the others with the reason why not."""
    chain = _chain_before(text, item, word)
    docs = {n: e.doc for n, e in STAGES.items()}
    docs |= {n: d.doc for n, d in document.names.transforms.items()}
    walker = None if chain is None else _walker(document, chain)
    for name, doc in docs.items():
        reason = None if walker is None else _unfit(walker, name, walker.stages[-1].span)
        if reason is None:
            yield Candidate(name, Role.STAGE, doc, Rank.FITS)
        else:
            yield Candidate(name, Role.STAGE, reason, Rank.UNFIT)
    if word.owner is not None:
        yield from _in_arguments(document, item, word)


def _chain_before(text: str, item: Item, word: Word) -> s.CurvatureDef | None:
    """The chain that the word would go on, from its source on, if that can be read."""
    words = [w for w in item.words if w.end <= word.start and w.role is not Role.COMMENT]
    start = _chain_start(words)
    if start is None or words[-1].text != "|>":
        return None
    wrapped = f"curvature {PLACEHOLDER} = {text[start : words[-1].start]}"
    file, problems = parse(Source("<chain>", wrapped))
    match file.items:
        case (s.CurvatureDef() as found,) if not problems and len(found.body.terms) == 1:
            return found
        case _:
            return None


def _chain_start(words: list[Word]) -> int | None:
    """Back over brackets that are closed, to the mark before the chain's source."""
    depth = 0
    for k in range(len(words) - 1, -1, -1):
        mark = words[k].text if words[k].role is Role.MARK else ""
        depth += {")": 1, "]": 1, "}": 1, "(": -1, "[": -1, "{": -1}.get(mark, 0)
        doc = words[k].role is Role.DOC
        if depth < 0 or (depth == 0 and (doc or mark in ("=", "+", "-", "*"))):
            return words[k + 1].start if k + 1 < len(words) else None
    return None


def _walker(document: Document, chain: s.CurvatureDef) -> Walker | None:
    """What follows the chain from its end on; None where it has mistakes itself, or is a sum."""
    problems = Problems()
    chains = Chains(document.names, problems)
    made = chains.curvature(chain)
    walker = Walker(document.names, problems, chains.readings)
    return walker if isinstance(made, Chain) and walker.inherit(made) else None


def _unfit(walker: Walker, stage: str, span: Span) -> str | None:
    """Why a stage cannot stand at the end of a chain; None where it can."""
    problems = Problems()
    walker.fork(problems).step(s.Use(stage, (), span, span))
    # A stage that only lacks values for its own parameters stands in the right place.
    misplaced = [p for p in problems if p.code not in (Code.E0704, Code.E0211)]
    return misplaced[0].headline if misplaced else None


# Arguments -----------------------------------------------------------------------------------


def _in_arguments(document: Document, item: Item, word: Word) -> Iterator[Candidate]:
    owner = word.owner
    assert owner is not None
    parameters = parameters_of(document, owner)
    if word.role is Role.VALUE and _behind_equals(item, word):
        yield from _values(document, owner, parameters)
        for parameter in item.parameters:
            yield Candidate(parameter.text, Role.SCALAR, "a parameter", Rank.FITS)
        return
    given = {
        w.text
        for w in item.words
        if w.role is Role.ARGUMENT and _same(w.owner, owner) and w.start != word.start
    }
    for name, known in parameters.items():
        if name not in given:
            yield Candidate(name, Role.ARGUMENT, about(known), Rank.FITS)


def _same(one: Owner | None, other: Owner) -> bool:
    return one is not None and (one.role, one.name) == (other.role, other.name)


def _behind_equals(item: Item, word: Word) -> bool:
    before = [w for w in item.words if w.end <= word.start and w.role is not Role.COMMENT]
    return (
        bool(before) and before[-1].text not in ("(", ",") and before[-1].role is not Role.KEYWORD
    )


def _values(
    document: Document, owner: Owner, parameters: Mapping[str, Parameter]
) -> Iterator[Candidate]:
    parameter = parameters.get(owner.argument)
    if parameter is None:
        return
    for word in in_words(parameter.kind).words:
        yield Candidate(word, Role.VALUE, f"{owner.argument} = {word}", Rank.FITS)
    if isinstance(parameter.kind, CurvatureName):
        yield from _curvatures(document)
    if owner.argument == "others":
        for name, definition in document.names.transforms.items():
            yield Candidate(name, Role.STAGE, definition.doc)


def _words_of(item: Item, owner: Owner) -> Iterator[Candidate]:
    """The words of an own parameter, behind `when sharing ==`."""
    words = [w for w in item.words if w.role is Role.VALUE and w.owner is not None]
    for word in words:
        assert word.owner is not None
        if word.owner.argument == owner.argument and word.text != PLACEHOLDER:
            yield Candidate(word.text, Role.VALUE, f"{owner.argument} = {word.text}", Rank.FITS)


# Bodies --------------------------------------------------------------------------------------


def _in_expression(item: Item, text: str, word: Word) -> Iterator[Candidate]:
    known = in_scope(item, text, word.start)
    for name, made in known.items():
        meaning = made.line or leaf_meaning(name, item)
        yield Candidate(made.written, Role.TENSOR, meaning, Rank.FITS)
    for parameter in item.parameters:
        yield Candidate(parameter.text, Role.SCALAR, "a parameter", Rank.FITS)
    for name, indices in leaves_of(item).items():
        if name not in known:
            detail = f"{leaf_meaning(name, item)}: add it to `needs`"
            yield Candidate(_leaf(name, indices), Role.TENSOR, detail)
    yield from _functions()
    if item.keyword == "score":
        yield Candidate(SOLVE, Role.FUNCTION, "the curvature's inverse, applied to rows")
        yield Candidate(
            APPLY, Role.FUNCTION, "a function of the curvature's spectrum, applied to rows"
        )
        yield Candidate(CARRY, Role.FUNCTION, "rows carried back through every later checkpoint")
    for keyword in vocabulary().words:
        yield Candidate(keyword, Role.KEYWORD)


def _leaf(name: str, indices: tuple[str, ...]) -> str:
    letters: list[str] = []
    for letter in indices:
        letters.append(letter + "'" * sum(x.rstrip("'") == letter for x in letters))
    return f"{name}[{','.join(letters)}]"


def _functions() -> Iterator[Candidate]:
    for name in vocabulary().functions:
        doc = FUNCTIONS[name].doc if name in FUNCTIONS else MAKERS.get(name, "of every entry")
        yield Candidate(name, Role.FUNCTION, doc)
    for name in vocabulary().reductions:
        yield Candidate(name, Role.FUNCTION, f"`{name}[…]` over the product to its right")


def _letters(item: Item, text: str) -> Iterator[Candidate]:
    for letter, meaning in letters_of(item).items():
        yield Candidate(letter, Role.INDEX, meaning, Rank.FITS)
    for word in item.words:
        letter = word.text.rstrip("'")
        if word.role is Role.INDEX and letter not in letters_of(item) and letter != PLACEHOLDER:
            yield Candidate(letter, Role.INDEX, "a space of this body", Rank.FITS)


def _loose(document: Document, item: Item) -> Iterator[Candidate]:
    """Words of the grammar, and names where an item may mention any curvature."""
    for word in (*vocabulary().words, *vocabulary().lines):
        yield Candidate(word, Role.KEYWORD, "", Rank.OWN)
    if item.keyword not in ("curvature", "transform", "score", "task"):
        yield from _curvatures(document)
    if item.keyword == "law":
        for name, doc in {**PROPERTIES, **MEASURES}.items():
            yield Candidate(name, Role.FUNCTION, doc, Rank.FITS)


def _files(document: Document) -> Iterator[Candidate]:
    folder = Path(document.name).parent
    for path in sorted(folder.glob("*.cv")) if folder.is_dir() else ():
        if path.name != Path(document.name).name:
            yield Candidate(path.name, Role.FILE, "in this folder")
