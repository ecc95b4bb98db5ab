"""What an editor shows about the word below the pointer: Markdown, or nothing."""

from __future__ import annotations

from collections.abc import Mapping

from curvlang.editors.document import SHIPPED, Document
from curvlang.editors.parameters import parameters_of
from curvlang.editors.reading import Item, Role, Word, read
from curvlang.editors.scope import (
    Binding,
    Bound,
    binding_of,
    bound,
    leaf_meaning,
    leaves_of,
    letter_meaning,
)
from curvlang.editors.structure import table
from curvlang.ir.functions import FUNCTIONS, MAKERS, TensorFunction
from curvlang.ir.score_program import APPLY, CARRY, SOLVE
from curvlang.language.chain import Chain, Combination, Curvature
from curvlang.language.checking.chains import Chains
from curvlang.language.checking.names import Named
from curvlang.language.checking.shipped import describe, facts, signature
from curvlang.language.law import MEASURES, PROPERTIES
from curvlang.language.registry import NAMED, SOLVERS, SOURCES, STAGES, Entry
from curvlang.language.sums import weighted_chains
from curvlang.language.syntax import nodes as s
from curvlang.language.syntax.docs import doc_of
from curvlang.language.syntax.problems import Problems

SENTENCES: Mapping[str, str] = {
    "identity": "`identity[i,i']`: 1 where both indices are equal, else 0",
    "size": "`size[i]`: the length of a space",
    "sum": "`sum[t,o] …`: the sum of the product to its right",
    SOLVE: "`z[n,p] = solve(v)`: the inverse of the curvature, applied to every row of a tensor",
    APPLY: "`z[n,p] = apply(f(x), v)`: the function `inverse f(x)` of the curvature's spectrum, applied to every row",
    CARRY: "`w[h,q,p] = carry(f(x[h]), u)`: rows at the end of the training, carried back to each checkpoint through "
    "`f` of the curvature at every later one",
    "mean": "`mean[n] …`: the mean of the product to its right; in an inverse, over the spectrum",
}


MOST_LETTERS = 12
"""Letters of a tensor whose meaning is shown."""
MOST_TERMS = 6
"""Different terms of a sum whose structure is shown."""
LAW_WORDS = {**PROPERTIES, **MEASURES}


def hover(document: Document, word: Word) -> str | None:
    """The text about a word."""
    item = document.reading.item_at(word.start)
    if item is None:
        return None
    match word.role:
        case Role.TENSOR:
            return _tensor(document, item, word)
        case Role.INDEX:
            return f"`{word.text}`: {letter_meaning(item, document.text, word.text)}"
        case Role.FUNCTION:
            return _function(word.text)
        case Role.ARGUMENT | Role.PARAMETER | Role.SCALAR:
            return _parameter(document, item, word)
        case Role.PART:
            return _part(word)
        case Role.SOLVER if word.text in SOLVERS:
            return _entry(word.text, SOLVERS[word.text], "ships with curvlang")
        case Role.STAGE if word.text in STAGES and word.text not in document.names.transforms:
            return _entry(word.text, STAGES[word.text], "built in")
        case Role.CURVATURE | Role.NAME if word.text in SOURCES and not document.definition(word):
            return _entry(word.text, SOURCES[word.text], "built in: every chain starts here")
        case Role.NAME | Role.FUNCTION if item.keyword == "law" and word.text in LAW_WORDS:
            return f"`{word.text}`: {LAW_WORDS[word.text]}"
        case _:
            return _defined(document, word)


def _entry(name: str, entry: Entry, kind: str) -> str:
    return f"{_code(signature(name, entry))}\n\n{entry.doc}\n\n*{kind}*"


def _code(text: str) -> str:
    return f"```cv\n{text}\n```"


def _part(word: Word) -> str | None:
    table_ = NAMED.get(word.owner.part if word.owner is not None else "", {})
    entry = table_.get(word.text)
    return None if entry is None else _entry(word.text, entry, "ships with curvlang")


def _function(name: str) -> str | None:
    if name in FUNCTIONS:
        return f"`{_signature(name, FUNCTIONS[name])}`: {FUNCTIONS[name].doc}"
    if name in MAKERS:
        return f"`{name}[…](seed)`: {MAKERS[name]}"
    return SENTENCES.get(name)


def _signature(name: str, signature: TensorFunction) -> str:
    results = ", ".join(f"[{','.join(r)}]" for r in signature.results) or "a number"
    numbers = ", number" * signature.numbers
    return f"{name}([{','.join(signature.argument)}]{numbers}) → {results}"


def _tensor(document: Document, item: Item, word: Word) -> str | None:
    made = binding_of(item, document.text, word)
    if made is None:
        return _leaf(item, document, word.text)
    lines = [_code(made.line or f"needs {made.written}")]
    meaning = leaf_meaning(word.text, item) if made.binding is Binding.NEEDS else ""
    lines += [meaning] if meaning else _from_before(document, made)
    lines += [_letters(item, document, made.indices)]
    return "\n\n".join(x for x in lines if x)


def _from_before(document: Document, made: Bound) -> list[str]:
    """Which transforms define a tensor that `needs` names."""
    if made.binding is not Binding.NEEDS:
        return []
    found = [
        name
        for name, t in document.names.transforms.items()
        for b in bound_in(t)
        if b.binding is Binding.DEFINES and b.name.text == made.name.text
    ]
    return [f"defined by {', '.join(f'`{x}`' for x in dict.fromkeys(found))}"] if found else []


def bound_in(found: s.TransformDef | s.ScoreDef) -> tuple[Bound, ...]:
    """The tensors of a transform or a score, read off its own text."""
    text = found.span.text
    return bound(read(text).items[0], text)


def _leaf(item: Item, document: Document, name: str) -> str | None:
    meaning = leaf_meaning(name, item)
    if not meaning:
        return None
    letters = leaves_of(item)[name]
    return (
        f"{_code(f'{name}[{_with_primes(letters)}]')}\n\n{meaning}; name it in `needs`\n\n"
        + _letters(item, document, letters)
    )


def _with_primes(letters: tuple[str, ...]) -> str:
    seen: dict[str, int] = {}
    found = []
    for letter in letters:
        found.append(letter + "'" * seen.get(letter, 0))
        seen[letter] = seen.get(letter, 0) + 1
    return ",".join(found)


def _letters(item: Item, document: Document, indices: tuple[str, ...]) -> str:
    spaces = list(dict.fromkeys(x.rstrip("'") for x in indices))
    lines = [f"* `{x}`: {letter_meaning(item, document.text, x)}" for x in spaces[:MOST_LETTERS]]
    return "\n".join([*lines, *(["* …"] if len(spaces) > MOST_LETTERS else [])])


def _parameter(document: Document, item: Item, word: Word) -> str | None:
    """The parameter as its definition writes it, with what the table says about it."""
    owner = word.owner
    if word.role is not Role.ARGUMENT:
        return _declared_in(item, document.text, word.text)
    if owner is None:
        return None
    found = document.definition(Word(owner.role, owner.name, word.start, word.end))
    written = None if found is None else _declared(found, word.text)
    parameter = parameters_of(document, owner).get(word.text)
    if written is None and parameter is not None:
        written = _code(f"{word.text}: {describe(parameter)}")
    lines = [] if parameter is None else facts(parameter)
    return None if written is None else "\n\n".join([written, *lines])


def _declared(found: Named, name: str) -> str | None:
    source = found.span.source
    item = next((x for x in read(source.text).items if x.start == found.span.start), None)
    return None if item is None else _declared_in(item, source.text, name)


def _declared_in(item: Item, text: str, name: str) -> str | None:
    """A parameter's text in a header, up to the next one or to the end of the bracket."""
    parameter = item.by_name.get(name)
    if parameter is None:
        return None
    stop = _end_of_parameter(text, parameter.start)
    return _code(" ".join(text[parameter.start : stop].split()))


def _end_of_parameter(text: str, start: int) -> int:
    depth = 0
    for at in range(start, len(text)):
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(text[at], 0)
        if depth < 0 or (depth == 0 and text[at] == ","):
            return at
    return len(text)


def _defined(document: Document, word: Word) -> str | None:
    match document.definition(word):
        case s.TransformDef() | s.ScoreDef() as found:
            return _body(found)
        case s.CurvatureDef() as found:
            return _curvature(document, found)
        case s.InverseDef() as found:
            return _plain(found, " ".join(found.span.text.split()))
        case s.TaskDef() as found:
            return _plain(found, found.span.text)
        case _:
            return None


def _plain(found: s.InverseDef | s.TaskDef, text: str) -> str:
    lines = [_code(text), doc_of(found)]
    return "\n\n".join([*(x for x in lines if x), _where(found)])


def _body(found: s.TransformDef | s.ScoreDef) -> str:
    source = found.span.source
    header = " ".join(
        source.text[found.span.start : source.text.find("{", _header_end(found))].split()
    )
    every = bound_in(found)
    facts = [_listed(b.value, every, b) for b in Binding]
    return "\n\n".join(
        [_code(header), doc_of(found), "\n".join(x for x in facts if x), _where(found)]
    )


def _header_end(found: s.TransformDef | s.ScoreDef) -> int:
    """Behind the parameters, whose types may have braces of their own."""
    return max((p.span.end for p in found.parameters), default=found.name_span.end)


def _listed(word: str, every: tuple[Bound, ...], binding: Binding) -> str:
    own = dict.fromkeys(b.written for b in every if b.binding is binding and b.name.text != "_")
    return f"* {word} {', '.join(f'`{x}`' for x in own)}" if own else ""


def _curvature(document: Document, found: s.CurvatureDef) -> str:
    made = Chains(document.names, Problems()).curvature(found)
    lines = [_code(found.span.text), doc_of(found), _structure(made), _where(found)]
    return "\n\n".join(x for x in lines if x)


def _structure(curvature: Curvature | None) -> str:
    match curvature:
        case Chain():
            return table(curvature)
        case Combination():
            # What stands in a sum many times is shown once, with all its weights.
            found: dict[object, tuple[Chain, list[str]]] = {}
            for weight, chain in weighted_chains(curvature):
                key = tuple(stage.key for stage in chain.stages)
                found.setdefault(key, (chain, []))[1].append(str(weight))
            parts = [
                f"{' and '.join(weights)} times `{chain.labels[-1]}`:\n\n{table(chain)}"
                for chain, weights in list(found.values())[:MOST_TERMS]
            ]
            return "\n\n".join([*parts, *(["…"] if len(found) > MOST_TERMS else [])])
        case _:
            return ""


def _where(found: Named) -> str:
    source = found.span.source
    line, _ = source.position(found.span.start)
    name = source.name.removeprefix(SHIPPED)
    return (
        f"*{name}, line {line}{', ships with curvlang' if source.name.startswith(SHIPPED) else ''}*"
    )
