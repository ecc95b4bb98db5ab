"""Seconds that checking, showing and formatting take for files of 2 000 lines and of the largest size.

python -m tests.bench.bench_check
"""

from __future__ import annotations

import re
import time
from itertools import pairwise

from curvlang.diagnostics.render import render
from curvlang.language import check_text
from curvlang.language.syntax.files import LARGEST, shipped_files
from curvlang.language.syntax.formatter import format_text


def valid(lines: int) -> str:
    """The prelude again and again under other names, with curvatures that use it."""
    parts: list[str] = []
    while sum(part.count("\n") + 1 for part in parts) < lines:
        k = len(parts)
        own = re.sub(
            r"^(transform|inverse|task) (\w+)",
            rf"\1 \2_{k}",
            shipped_files()["prelude"],
            flags=re.M,
        )
        chain = f"block_ggn |> kronecker_factor_{k} |> eigen_correct_{k}"
        parts.append(own + "\n" + "\n".join(f"curvature c{k}_{j} = {chain}" for j in range(5)))
    return "\n".join(parts)


def cut(text: str) -> str:
    """The longest start of whole lines that may be read."""
    return text[: LARGEST - 1].rpartition("\n")[0] if len(text) > LARGEST else text


def cases() -> dict[str, str]:
    whole = valid(2_000)
    terms = " + ".join("a[n,t,i]" for _ in range(150))
    wide = (
        "transform t{0} {{ needs a[n,t,i]\n A[i] = mean[n,t] ({1})\n"
        " yield C[o,i,o',i'] = identity[o,o'] * identity[i,i'] }}"
    )
    return {
        "2 000 lines": whole,
        "unknown tensors": whole.replace("mean[n,t] a[n,t,i]", "mean[n,t] b[n,t,i]"),
        "2 000 misspelt chains": "\n".join(f"curvature c{j} = blok_ggn{j} |> krnecker{j}" for j in range(2_000)),
        "a mistake at the end": whole + "\ncurvature x = ?",
        "long sums": cut("\n".join(wide.format(j, terms) for j in range(200))),
        "unknown names": cut("transform t {\n" + "\n".join(f"s{j} = s{j - 1} + q{j}" for j in range(12_000))) + "\n}",
        "one name": cut("\n".join("curvature x = ggn" for _ in range(20_000))),
    }  # fmt: skip


def main() -> None:
    check_text("curvature x = ggn")
    for name, text in cases().items():
        times = [time.process_time()]
        found = check_text(text)
        times.append(time.process_time())
        render(found)
        times.append(time.process_time())
        format_text(text)
        times.append(time.process_time())
        check, show, tidy = (b - a for a, b in pairwise(times))
        print(
            f"{name:22} {text.count(chr(10)) + 1:6} lines {len(found):6} said"
            f"   check {check:.2f} s   show {show:.2f} s   fmt {tidy:.2f} s"
        )


if __name__ == "__main__":
    main()
