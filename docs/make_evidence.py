"""Writes `docs/evidence.md`, its figures and `docs/results/README.md` from the result files.

    python docs/make_evidence.py             write the pages and the figures
    python docs/make_evidence.py RUN …       first take over the results of these run folders
    python docs/make_evidence.py --check     exit 1 where a page differs from what would be written

Every number of both pages is read from `docs/results/*.json.gz`, so that they cannot say what the
results do not.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from evidence_board import board, orders
from evidence_cases import FINDINGS, Case, cases, counted, told, with_ends
from evidence_figures import figures

from curvlang.evaluation.statistics.spearman import spearman
from curvlang.evaluation.study.study_file import packed_study, read_study
from curvlang.evaluation.study.study_result import Group, Row, StudyResult
from curvlang.reporting.notation import MISSING, correlation, quantity, setting, share
from curvlang.reporting.study.findings import facts, heading, spot_of, verdict

DOCS = Path(__file__).parent
RESULTS, FIGURES = DOCS / "results", DOCS / "figures"
PAGE, LIST = DOCS / "evidence.md", RESULTS / "README.md"
RENEW = "python docs/make_evidence.py"
BY_HAND = "## benchmarks"
"""From here on the list of results is written by hand."""
Results = dict[str, StudyResult]


def read() -> Results:
    """All results that are kept, by name."""
    return {x.name.partition(".")[0]: read_study(x) for x in sorted(RESULTS.glob("*.json.gz"))}


def take_over(folder: Path) -> str:
    """Pack the result of a run folder; one with fewer cells than the study has is refused."""
    result = read_study(folder / "study.json")
    if result.done < result.cells:
        raise SystemExit(
            f"{folder}: {result.done} of {result.cells} cells; run it to the end first"
        )
    (RESULTS / f"{result.name}.json.gz").write_bytes(packed_study(result))
    return result.name


# The evidence ---------------------------------------------------------------------------------


def evidence(results: Results) -> str:
    """The page: the question, the answer, six figures, the tables."""
    found = cases(results)
    return "\n\n".join(
        [
            f"<!-- Made by `{RENEW}` from docs/results; do not edit. -->\n# Evidence",
            "**Do better Hessians give better data attributions, and which step of the path\n"
            "H → GGN → block GGN → EK-FAC → K-FAC costs most?** The published account is arXiv:2509.23437;\n"
            "its protocol is known in part, so the unknowns are swept.",
            "## The answer in five sentences",
            "\n".join(f"{k}. {text}" for k, text in enumerate(answer(found), 1)),
            "A case is one place of a sweep with all its models. Better, worse and not told apart are as in\n"
            "[studies](studies.md#how-it-is-judged): the interval over models, subsets and queries, and Holm's\n"
            "correction for all pairs of a table.",
            "## Figures",
            *(f"![{d.title}](figures/{d.name}.svg)\n\n**{d.title}.** {d.caption}" for d in figures(results)),
            "## Which findings survive",
            "\n".join(survival(found)),
            "## LDS and approximation error",
            "\n\n".join(_tables(results)),
            "## The board",
            "\n\n".join(board(results)),
            "## Beside the published account",
            PUBLISHED,
            "\n".join(orders(results)),
            "## Where the numbers come from",
            "\n".join(_files(results)),
        ]
    ) + "\n"  # fmt: skip


PUBLISHED = """What is known of theirs, without their numbers, which we do not have: figures 1 to 3 show LDS against the approximation error for
epochs 10, 100 and 1000, depths 1, 4 and 8, and widths 32, 64 and 128, each with a table of the shares of error and LDS along the path;
figure 5 shows the residual against the Hessian. The abstract says that better approximations give consistently better attributions,
and that the step from EK-FAC to K-FAC, the mismatch of eigenvalues, takes the largest share of the error. The tables above are the same quantities here. Their error is
‖H C⁺v − v‖²/‖v‖² over gradients v of single examples, with C⁺ a pseudo-inverse that leaves out eigenvalues of at most 1e-4 in size:
`pseudo_absolute(atol = 1e-4)` here. Results of `pseudo(rtol = 1e-4)` have the same threshold relative to the largest eigenvalue."""


def answer(found: Sequence[Case]) -> Iterator[str]:
    """Five sentences, all of them counts and ranges of the results."""
    for finding in FINDINGS[:3]:
        yield f"{finding.sentence}: {counted(told(found, finding))}."
    steps = [f"{f.short} {counted(told(found, f))}" for f in FINDINGS[3:6]]
    yield f"With each curvature at its own λ, {'; '.join(steps)}."
    agreement = [x for c in found if (x := _agreement(c.group)) is not None]
    positive = sum(x > 0 for x in agreement)
    yield (
        f"A smaller approximation error does not mean a better attribution: over the curvatures of a case the error "
        f"under a pseudo-inverse and the LDS agree (a negative rank correlation) in {len(agreement) - positive} of "
        f"{len(agreement)} cases, and disagree in {positive}."
    )


def _agreement(group: Group) -> float | None:
    """Spearman of inverse error and LDS over the curvatures of a group without λ."""
    import torch

    if group.sweep or group.protocol is None or not group.inverse.startswith("pseudo"):
        return None
    pairs = [
        (s.inverse, s.lds.estimate)
        for r in group.rows
        if (s := spot_of(r, group.shared)) is not None
        and s.lds is not None
        and s.inverse is not None
    ]
    if len(pairs) < 3:
        return None
    errors, scores = torch.tensor(pairs, dtype=torch.float64).T[:, None]
    value = float(spearman(errors, scores)[0])
    return value or None


def survival(found: Sequence[Case]) -> Iterator[str]:
    """One table: every finding in every study, and whether it hangs on a choice."""
    studies = list(dict.fromkeys(c.study for c in found))
    yield "| finding | " + " | ".join(f"`{s}`" for s in studies) + " | survives |"
    yield "|---|" + "--:|" * len(studies) + "---|"
    for finding in FINDINGS:
        cells = []
        for study in studies:
            verdicts = told([c for c in found if c.study == study], finding)
            counts = [sum(v == w for v in verdicts) for w in ("better", "worse")]
            rest = len(verdicts) - sum(counts)
            cells.append(f"{counts[0]}/{counts[1]}/{rest}" if verdicts else MISSING)
        verdicts = told(found, finding)
        yield f"| {finding.title} | {' | '.join(cells)} | {_survives(verdicts)} |"
    yield "\nEach cell counts the cases in which the first is better / worse / not told apart."


def _survives(verdicts: Sequence[str]) -> str:
    kinds = {v for v in verdicts if v != "cannot be told apart"}
    if len(kinds) > 1:
        return "no: hangs on the choice"
    if not kinds:
        return "never told apart"
    word = next(iter(kinds))
    return f"{word} wherever told" if "cannot be told apart" in verdicts else f"yes: {word} in all"


def _tables(results: Results) -> Iterator[str]:
    for name in ("depth", "width", "epochs"):
        for group in results[name].groups if name in results else ():
            if group.inverse.startswith("pseudo"):
                yield f"**{heading(group)}**, {len(group.seeds)} models\n\n" + "\n".join(
                    _error_table(group)
                )


def _error_table(group: Group) -> Iterator[str]:
    """LDS, both errors and what each step adds: the tables of the published figures."""
    yield "| | forward error | share | inverse error | share | LDS | share |"
    yield "|---|--:|--:|--:|--:|--:|--:|"
    for k, row in enumerate(group.rows):
        spot = spot_of(row, group.shared)
        step = group.shares[k - 1] if 0 < k <= len(group.shares) else None
        parts = [None] * 3 if step is None else [step.forward, step.inverse, step.lds_share]
        of = ["" if k == 0 else share(x) for x in parts]
        lds = MISSING if spot is None or spot.lds is None else with_ends(spot.lds)
        inverse = quantity(None if spot is None else spot.inverse)
        yield f"| {row.label} | {quantity(row.forward)} | {of[0]} | {inverse} | {of[1]} | {lds} | {of[2]} |"


def _files(results: Results) -> Iterator[str]:
    yield "| result | command | models | versions | spec |"
    yield "|---|---|--:|---|---|"
    for name, result in results.items():
        made = result.provenance
        versions = ", ".join(f"{k} {v}" for k, v in made["versions"].items())
        yield (
            f"| [{name}](results/{name}.json.gz) | `{_command(name)}` | {len(result.seeds)} | "
            f"{versions} | `{str(made['spec'])[:12]}` |"
        )
    yield "\n`cv.read_study` reads a file; it has the command, the versions and the hashes of what it was made from."


def _command(name: str) -> str:
    """Of a study that ships alone, of one among others in its file, or of one that lies beside its result."""
    whole = DOCS.parent / "specs" / "studies"
    if (RESULTS / f"{name}.cv").exists():
        return f"curvlang study docs/results/{name}.cv"
    if (whole / f"{name}.cv").exists():
        return f"curvlang study {name}"
    files = sorted(whole.glob("*.cv"))
    owner = next(x.stem for x in files if f"study {name} " in x.read_text("utf-8"))
    return f"curvlang study {owner}:{name}"


# The list of results --------------------------------------------------------------------------


def listing(results: Results) -> str:
    """Every study with its verdict and its LDS, and what is written by hand below."""
    rest = LIST.read_text("utf-8").partition(BY_HAND)[2]
    parts = [
        "# Results",
        f"<!-- Made by `{RENEW}` from the files beside it, up to the heading `benchmarks`; do not edit. -->",
        "Studies run at full protocol. `NAME.json.gz` is the packed `study.json` of the run, with its command,\n"
        "versions and hashes. A run can be stopped at any time; the same command goes on. What they say together:\n"
        "[evidence](../evidence.md).",
        *("\n\n".join(_study(name, result)) for name, result in results.items()),
    ]
    return "\n\n".join(parts) + f"\n\n{BY_HAND}{rest}"


def _study(name: str, result: StudyResult) -> Iterator[str]:
    yield f"## {name}"
    yield f"```console\n$ {_command(name)}\n```"
    first = result.groups[0]
    said = dict(facts(first))
    models = f"{len(result.seeds)} models a cell"
    yield f"[{name}.json.gz]({name}.json.gz): {result.question} {models}; {said.get('LDS', 'nothing is retrained')}."
    yield "\n".join(f"* {x}" for x in verdict(result))
    for group in result.groups:
        if group.protocol is not None:
            yield f"**{heading(group)}** · {_about(group)}\n\n" + "\n".join(_lds_table(group))


def _about(group: Group) -> str:
    task = group.task
    found = [f"first model: loss {quantity(task.train_loss)}"]
    if task.query_accuracy is not None:
        found.append(f"accuracy {100 * task.query_accuracy:.0f} %")
    if group.ceiling is not None:
        found.append(f"reliability {correlation(group.ceiling.estimate)}")
    if group.additive is not None:
        found.append(f"datamodel {correlation(group.additive.estimate)}")
    return ", ".join(found)


def _lds_table(group: Group) -> Iterator[str]:
    swept = len(group.sweep) > 1
    head = f"at λ = {setting(group.sweep[group.shared])}" if group.sweep else "LDS"
    more = " | at its best λ | held out |" if swept else " |"
    yield f"| | {head}{more} forward error | inverse error |"
    yield "|---|--:|" + ("--:|--:|" if swept else "") + "--:|--:|"
    for row in group.rows:
        spot = spot_of(row, group.shared)
        cells = [MISSING if spot is None or spot.lds is None else with_ends(spot.lds)]
        if swept:
            cells += [_best(row), MISSING if row.honest is None else with_ends(row.honest.lds)]
        cells += [quantity(row.forward), quantity(None if spot is None else spot.inverse)]
        yield f"| {row.label} | {' | '.join(cells)} |"


def _best(row: Row) -> str:
    spot = spot_of(row, row.best)
    if spot is None or spot.lds is None:
        return MISSING
    at = "" if spot.damping is None else f" ({setting(spot.damping)})"
    return f"{correlation(spot.lds.estimate)}{at}"


def main(arguments: Sequence[str]) -> int:
    """Write the pages, or with `--check` name those that differ."""
    folders = [Path(x) for x in arguments if not x.startswith("--")]
    for folder in folders:
        print(f"taken over: {take_over(folder)}")
    results = read()
    pages = {PAGE: evidence(results), LIST: listing(results)}
    stale = [p for p, text in pages.items() if not p.exists() or p.read_text("utf-8") != text]
    if "--check" in arguments:
        print("\n".join(map(str, stale)))
        return 1 if stale else 0
    for page, text in pages.items():
        page.write_text(text, "utf-8")
    FIGURES.mkdir(exist_ok=True)
    for drawing in figures(results):
        assert drawing.svg is not None, drawing.reason
        (FIGURES / f"{drawing.name}.svg").write_text(drawing.svg, "utf-8")
    print(f"{len(results)} results, {len(stale)} pages renewed")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
