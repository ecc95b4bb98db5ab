"""Texts of `n` parts that are cheap to write and were dear to check: seeds of the fuzzing, and of the limits."""

from __future__ import annotations

from collections.abc import Callable

YIELD = "yield C[o,i,o',i'] = identity[o,o'] * identity[i,i']"
USED = "curvature used = ggn |> block_diagonal(by = layer) |> t"
PARTS = "data digits\n model mlp\n loss cross_entropy\n train sgd"


def each(n: int, piece: Callable[[int], str], joint: str = ", ") -> str:
    return joint.join(piece(k) for k in range(n))


def transform(body: str, header: str = "t") -> str:
    return f"transform {header} {{\n needs a[n,t,i], g[n,r,t,o]\n {body}\n {YIELD}\n}}\n{USED}"


def study(lines: str) -> str:
    return f"study s {{ task digits\n path hessian > ggn\n {lines} }}"


def task(arguments: str) -> str:
    return f"evaluate ggn on digits({arguments})"


SHAPES: dict[str, Callable[[int], str]] = {
    # Inverses.
    "where that doubles": lambda n: (
        f"inverse f: s -> x{n} where x0 = s, {each(n, lambda k: f'x{k + 1} = x{k} + x{k}')}\n"
        "evaluate kfac with f on digits"
    ),
    "where in a row": lambda n: (
        f"inverse f: s -> x{n} where x0 = s, {each(n, lambda k: f'x{k + 1} = x{k} + 1')}"
    ),
    "unknown names": lambda n: f"inverse f: s -> s where {each(n, lambda k: f'x{k} = y{k}')}",
    "a name again": lambda n: f"inverse f: s -> s where {each(n, lambda k: 'x = 1')}",
    "parameters": lambda n: (
        f"inverse f({each(n, lambda k: f'p{k} = p{k - 1} + 1' if k else 'p0 = 1')}): s -> s"
    ),
    "if inside if": lambda n: (
        "inverse f: s -> " + "if s > 0 then " * n + "s" + " else 1" * n
    ),
    "else if": lambda n: "inverse f: s -> " + "if s > 0 then 1 else " * n + "s",
    "open if": lambda n: "inverse f: s -> " + "if s > 0 then " * n,
    # Curvatures.
    "a sum of one": lambda n: f"curvature x = {each(n, lambda k: 'kfac', ' + ')}",
    "a sum of itself": lambda n: f"curvature x = {each(n, lambda k: 'x', ' + ')}",
    "a sum of unknown ones": lambda n: f"curvature x = {each(n, lambda k: f'u{k}', ' + ')}",
    "sums that double": lambda n: (
        "curvature c0 = kfac + ggn\n"
        + each(n, lambda k: f"curvature c{k + 1} = c{k} + c{k}", "\n")
        + f"\nlaw c{n} equals c0"
    ),
    "weights": lambda n: "curvature x = " + "0.5 * weight_decay * " * n + "ggn",
    "stages": lambda n: "curvature x = ggn" + " |> flat" * n,
    "one after the other": lambda n: (
        "curvature c0 = ggn\n" + each(n, lambda k: f"curvature c{k + 1} = c{k}", "\n")
    ),
    "a circle": lambda n: each(n, lambda k: f"curvature c{k} = c{(k + 1) % n}", "\n"),
    "one beginning": lambda n: (
        "curvature long = ggn |> block_diagonal(by = layer) |> kronecker_factor"
        + " |> eigen_correct" * 80
        + "\n"
        + each(n, lambda k: f"curvature c{k} = long |> eigen_correct", "\n")
    ),
    "arguments again": lambda n: (
        f"curvature x = hessian |> drop_residual({each(n, lambda k: 'fisher = mc')})"
    ),
    "unknown on a line": lambda n: each(n, lambda k: f"curvature c{k} = u{k}", " "),
    "defined again": lambda n: each(n, lambda k: "curvature x = ggn", "\n"),
    # Transforms.
    "a sum": lambda n: transform(f"s = {each(n, lambda k: '2', ' + ')}"),
    "signs": lambda n: transform("s = " + "-" * n + "2"),
    "powers": lambda n: transform(f"s = {each(n, lambda k: '10', '^')}"),
    "brackets": lambda n: transform("s = " + "(" * n + "2" + ")" * n),
    "calls": lambda n: transform("s = " + "sqrt(" * n + "2" + ")" * n),
    "arguments": lambda n: transform(f"s = max({each(n, lambda k: '2')})"),
    "indices again": lambda n: transform(f"x[{each(n, lambda k: 'i')}] = 2"),
    "indices with primes": lambda n: transform("x[i" + "'" * n + "] = 2"),
    "statements that double": lambda n: transform(
        "s0 = 1\n" + each(n, lambda k: f"s{k + 1} = s{k} + s{k}", "\n")
    ),
    "unknown tensors": lambda n: transform(each(n, lambda k: f"s{k} = u{k}", "\n")),
    "when inside when": lambda n: transform(
        "when w == a {" * n + "}" * n, "t(w: {a, b} = a)"
    ),
    "when of many": lambda n: transform(
        each(n, lambda k: f"when w{k} == a {{ s = 1 }} else {{ s = 2 }}", "\n"),
        f"t({each(n, lambda k: f'w{k}: {{a, b}} = a')})",
    ),
    "words of one": lambda n: transform(
        each(n, lambda k: f"when w == a{k} {{ s = 1 }}", "\n"),
        f"t(w: {{{each(n, lambda k: f'a{k}')}}} = a0)",
    ),
    "rounds of nobody knows": lambda n: transform(
        "s = 1\n" + "repeat p {" * n + " s = s + 1 " + "}" * n, "t(p: int)"
    ),
    "rounds": lambda n: (
        transform("s = 1\nrepeat 100 {\n" + "s = s + 1\n" * n + "}") + " |> t" * 90
    ),
    "numbers as parameters": lambda n: transform(
        each(n, lambda k: f"s{k} = p{k}", "\n"), f"t({each(n, lambda k: f'p{k}: float = 1')})"
    ),
    "tensors and parameters": lambda n: transform(
        each(n, lambda k: f"p{k} = 1", "\n"), f"t({each(n, lambda k: f'p{k}: float = 1')})"
    ),
    # Tasks, evaluations, studies.
    "a list": lambda n: task(f"hidden = [{each(n, lambda k: '16')}]"),
    "lists in lists": lambda n: task("hidden = " + "[" * n + "]" * n),
    "repeated in a list": lambda n: task(f"hidden = [{each(n, lambda k: '[1] * 1000')}]"),
    "repeated": lambda n: each(n, lambda k: task("hidden = [1] * 1000"), "\n"),
    "unknown arguments": lambda n: task(each(n, lambda k: f"z{k} = 1")),
    "task and parameters": lambda n: (
        f"task t({each(n, lambda k: f'z{k} = 1')}) {{ {PARTS} }}\n"
        f"study s {{ task t(z0 = d) for d in [{each(900, str)}]\n path hessian > ggn }}"
    ),
    "evaluations": lambda n: each(n, lambda k: f"evaluate u{k} on v{k}", "\n"),
    "lds": lambda n: f"evaluate ggn on digits {{ lds {each(n, lambda k: 'subsets = 5')} }}",
    "values of a study": lambda n: (
        f"study s {{ task digits(epochs = d) for d in [{each(n, str)}]\n path hessian > ggn }}"
    ),
    "sweeps": lambda n: study(each(n, lambda k: f"protocol subsets = 5 for d{k} in [1]", " ")),
    "cells": lambda n: each(
        n,
        lambda k: (
            f"study s{k} {{ task digits(epochs = d, seed = e) for d in [{each(30, str)}] "
            f"for e in [{each(30, str)}]\n path hessian > ggn }}"
        ),
        "\n",
    ),
    "a path": lambda n: f"study s {{ task digits\n path {each(n, lambda k: 'ggn', ' > ')} }}",
    "measures": lambda n: study(f"measures {each(n, lambda k: 'loss')}"),
    "lines": lambda n: study("seeds 3\n" * n),
    # Laws.
    "laws": lambda n: each(n, lambda k: f"curvature c{k} = ggn\nlaw symmetric", "\n"),
    "unknown laws": lambda n: f"law kfac is {each(n, lambda k: f'u{k}')}",
    "conditions": lambda n: (
        f"law kfac is symmetric when {each(n, lambda k: 'examples == 1', ' and ')}"
    ),
    # Marks and texts.
    "used files": lambda n: each(n, lambda k: f'use "no{k}.cv"', "\n") + "\ncurvature x = ggn",
    "open quotes": lambda n: 'use "' * n,
    "open brackets": lambda n: "curvature x = " + "(" * n,
    "closed in another order": lambda n: "transform t {\n s = " + "(" * n + "]" * n,
    "brackets behind nothing": lambda n: "transform t { s = " + "](" * n,
    "equals behind nothing": lambda n: "transform t { s " + "] = " * n,
    "long words": lambda n: f"curvature {'x' * n} = {'y' * n} |> {'z' * n}",
    "long numbers": lambda n: f"curvature x = {'9' * n} * ggn\ncurvature y = 1e{'9' * n} * ggn",
    "wide characters": lambda n: f"curvature {'曲' * n} = ggn # {'e' + chr(0x301) * n}\n?",
    "studies without end": lambda n: "study\n" * n,
}  # fmt: skip
"""By name the text of a number of parts."""
