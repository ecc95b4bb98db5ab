"""The syntax tree: what a file says, before any name is looked up."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from curvlang.diagnostics.source import NOWHERE, Span
from curvlang.ir.expr import BodyStatement, Expr, Target


def _span() -> Span:
    return field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Text:
    """A quoted text as a value."""

    value: str
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class ListValue:
    """`[16, 16]`, or `[16] * 8` with `times` the expression after the star."""

    items: tuple[ValueSyntax, ...]
    times: Expr | None = None
    span: Span = _span()


ValueSyntax: TypeAlias = Expr | Text | ListValue


@dataclass(frozen=True, slots=True)
class Argument:
    """`name = value`."""

    name: str
    value: ValueSyntax
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Use:
    """A name with arguments: a stage of a chain, a task, an inverse, a part of a task."""

    name: str
    arguments: tuple[Argument, ...] = ()
    span: Span = _span()
    name_span: Span = _span()


@dataclass(frozen=True, slots=True)
class ChainSyntax:
    """A source and the stages after it; the source is a name or a bracketed combination."""

    source: Use | CombinationSyntax
    stages: tuple[Use, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class WeightedChain:
    """`0.9 * chain`, `weight_decay * chain`: `names` are the named weights with their places."""

    weight: float
    chain: ChainSyntax
    names: tuple[Word, ...] = ()
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class CombinationSyntax:
    """A sum of weighted chains; a plain chain is a sum of one."""

    terms: tuple[WeightedChain, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class CurvatureDef:
    """`curvature name = …`."""

    name: str
    body: CombinationSyntax
    doc: str = ""
    span: Span = _span()
    name_span: Span = _span()


@dataclass(frozen=True, slots=True)
class ParameterSyntax:
    """`sharing: {expand, reduce} = expand`; `words` is empty for a plain type."""

    name: str
    type: str
    words: tuple[str, ...] = ()
    default: ValueSyntax | None = None
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class When:
    """`when parameter == word { … } else { … }`."""

    parameter: str
    word: str
    then: tuple[BodySyntax, ...]
    otherwise: tuple[BodySyntax, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Repeat:
    """`repeat rounds { … }`: names that a round defines flow into the next one."""

    count: Expr
    body: tuple[BodySyntax, ...]
    span: Span = _span()


BodySyntax: TypeAlias = BodyStatement | When | Repeat


@dataclass(frozen=True, slots=True)
class TransformDef:
    """`transform name(parameters) { … }`."""

    name: str
    parameters: tuple[ParameterSyntax, ...]
    needs: tuple[Target, ...]
    body: tuple[BodySyntax, ...]
    doc: str = ""
    span: Span = _span()
    name_span: Span = _span()


@dataclass(frozen=True, slots=True)
class ScoreDef:
    """`score name(parameters) { needs u[q,p], v[n,p] … yield s[q,n] = … }`."""

    name: str
    parameters: tuple[ParameterSyntax, ...]
    needs: tuple[Target, ...]
    body: tuple[BodySyntax, ...]
    doc: str = ""
    span: Span = _span()
    name_span: Span = _span()


@dataclass(frozen=True, slots=True)
class Binding:
    """A name and what it stands for; an argument stands for nothing yet."""

    name: str
    value: Expr | None = None
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class InverseDef:
    """`inverse name(parameters) per block: s -> body where name = …`.

    One argument is an eigenvalue of the matrix; two are eigenvalues of the factors G and A of a
    Kronecker product. Without an argument it is stated by its entries: `statements` end in a yield.
    """

    name: str
    parameters: tuple[Binding, ...]
    arguments: tuple[Binding, ...]
    body: Expr
    bindings: tuple[Binding, ...] = ()
    per_block: bool = False
    span: Span = _span()
    name_span: Span = _span()
    needs: tuple[Target, ...] = ()
    statements: tuple[BodySyntax, ...] = ()
    doc: str = ""


@dataclass(frozen=True, slots=True)
class TaskDef:
    """`task name(parameters) { data … model … loss … train … }`."""

    name: str
    parameters: tuple[Argument, ...]
    parts: tuple[tuple[str, Use], ...]
    doc: str = ""
    span: Span = _span()
    name_span: Span = _span()


@dataclass(frozen=True, slots=True)
class RepeatedLine:
    """A line of an evaluation that stands there again: which, where first, where again."""

    word: str
    first: Span = _span()
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class EvaluateDef:
    """`evaluate score of name with inverse on task { … }`.

    `repeated` holds the lines that stand twice; `score` is None for plain influence.
    """

    curvature: str
    inverse: Use | None
    task: Use | None
    against: Target | None
    influence: tuple[str, str] | None
    lds: tuple[Argument, ...] | None
    solve: Use | None = None
    score: Use | None = None
    repeated: tuple[RepeatedLine, ...] = ()
    span: Span = _span()
    name_span: Span = _span()


@dataclass(frozen=True, slots=True)
class Word:
    """A word with its place."""

    text: str
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Sweep:
    """`for depth in [1, 4, 8]`."""

    name: Word
    values: ValueSyntax
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class BaselineUse:
    """`score of curvature with inverse`: a baseline, or a score with what it solves with."""

    use: Use
    curvature: Word | None = None
    inverse: Use | None = None
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class StudyDef:
    """`study name { task … for x in […] path a > b … }`.

    `signs` stand between the curvatures of `path`; `silent` is the word of `protocol none`.
    """

    name: str
    doc: str = ""
    task: Use | None = None
    sweeps: tuple[Sweep, ...] = ()
    path: tuple[Word, ...] = ()
    signs: tuple[Word, ...] = ()
    curvatures: tuple[Word, ...] = ()
    seeds: ValueSyntax | None = None
    inverses: tuple[Use, ...] = ()
    damping: ValueSyntax | None = None
    protocol: tuple[Argument, ...] | None = None
    silent: Word | None = None
    baselines: tuple[BaselineUse, ...] = ()
    measures: tuple[Use, ...] = ()
    repeated: tuple[RepeatedLine, ...] = ()
    span: Span = _span()
    name_span: Span = _span()


@dataclass(frozen=True, slots=True)
class Measurement:
    """A curvature, or a measure of one: `mine`, `trace(mine)`, `trak(mine, dimension = 2)`."""

    curvature: Word
    measure: Word | None = None
    arguments: tuple[Argument, ...] = ()
    span: Span = _span()

    @property
    def use(self) -> Use:
        """The measure as a name with arguments."""
        assert self.measure is not None
        return Use(self.measure.text, self.arguments, self.span, self.measure.span)


@dataclass(frozen=True, slots=True)
class PropertyClaim:
    """`symmetric, solves` of every curvature, or `mine is [not] symmetric`."""

    subject: Word | None
    words: tuple[Word, ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class RelationClaim:
    """`left equals right`; `relation` is `equals`, `differs_from` or `averages_to`."""

    left: Measurement
    relation: str
    right: Measurement


@dataclass(frozen=True, slots=True)
class NearnessClaim:
    """`subject [not] closer_to target than other`."""

    subject: Word
    target: Word
    other: Word
    negated: bool = False


Claim: TypeAlias = PropertyClaim | RelationClaim | NearnessClaim


@dataclass(frozen=True, slots=True)
class ConditionDef:
    """`examples == 1` (`sign` is the comparison) or `loss is [not] mse` (`sign` is `is`)."""

    subject: Word
    sign: str
    value: Word
    negated: bool = False
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class LawDef:
    """`law CLAIM [in each block] [within NUMBER] [when CONDITION and …]`."""

    claim: Claim
    blocks: bool = False
    bound: tuple[Word, float] | None = None
    conditions: tuple[ConditionDef, ...] = ()
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class UseFile:
    """`use "mine.cv"`."""

    path: str
    span: Span = _span()


Item: TypeAlias = (
    CurvatureDef
    | TransformDef
    | ScoreDef
    | InverseDef
    | TaskDef
    | EvaluateDef
    | StudyDef
    | LawDef
    | UseFile
)


@dataclass(frozen=True, slots=True)
class File:
    """Every item of a file, in order."""

    items: tuple[Item, ...]
