"""The parse tables as the file that ships: `python -m curvlang.language.syntax.written_tables`."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from curvlang.language.syntax.tables import FILE, build, grammar, key
from curvlang.storage.atomic import write

_OPTIONS = ("parser", "lexer", "start", "propagate_positions", "maybe_placeholders")


def written(text: str) -> bytes:
    """The tables of a grammar, always the same bytes for one grammar and one release of lark."""
    from lark.grammar import Rule
    from lark.lexer import TerminalDef

    data, memo = build(text).memo_serialize([TerminalDef, Rule])
    data["options"] = {name: data["options"][name] for name in _OPTIONS}
    data["parser"]["parser"] = _in_order(data["parser"]["parser"])
    held = {"data": data, "memo": memo}
    body = json.dumps(held, separators=(",", ":")).encode("ascii") + b"\n"
    return key(text, body) + b"\n" + body


def _in_order(automaton: dict[str, Any]) -> dict[str, Any]:
    """Tokens numbered by name, states in the order in which the tokens reach them from the start.

    Lark numbers both in the order of a set, which is another one in every run.
    """
    tokens = automaton["tokens"]
    actions = {
        state: dict(sorted((tokens[token], action) for token, action in found.items()))
        for state, found in automaton["states"].items()
    }
    numbers: dict[int, int] = {}
    waiting = list(automaton["start_states"].values())
    for state in waiting:
        if state not in numbers:
            numbers[state] = len(numbers)
            waiting += [to for kind, to in actions[state].values() if kind == _SHIFT]
    names = {name: k for k, name in enumerate(sorted(tokens.values()))}

    def renumbered(kind: int, to: Any) -> list[Any]:
        return [kind, numbers[to] if kind == _SHIFT else to]

    return {
        "tokens": {k: name for name, k in names.items()},
        "states": {
            numbers[state]: {names[t]: renumbered(*action) for t, action in actions[state].items()}
            for state in numbers
        },
        "start_states": {k: numbers[v] for k, v in automaton["start_states"].items()},
        "end_states": {k: numbers[v] for k, v in automaton["end_states"].items()},
    }


_SHIFT = 0
"""What lark writes for a step to another state; else a rule is reduced."""

if __name__ == "__main__":
    write(Path(str(resources.files("curvlang.grammars") / FILE)), written(grammar()))
