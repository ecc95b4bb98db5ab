"""From an idea to a table: K-FAC whose input factor counts an example by the size of its gradient."""

from __future__ import annotations

from pathlib import Path

import curvlang as cv

IDEA = """
transform weighted {
  "Inputs count by how much the loss bends there."
  needs a[n,t,i], g[n,r,t,o]
  w[n] = sum[t,r,o] g[n,r,t,o]^2
  A[i,i'] = mean[n] w[n] * (sum[t] a[n,t,i] * a[n,t,i'])
  G[o,o'] = mean[n] sum[t,r] g[n,r,t,o] * g[n,r,t,o']
  yield C[o,i,o',i'] = G[o,o'] * A[i,i'] / max(mean[n] w[n], 1e-30)
}

curvature mine = block_ggn |> weighted
"""


def main(folder: Path, *, hidden: int = 8, subsets: int = 60) -> cv.Report:
    """The result: error and LDS of every step, the new one last."""
    task = cv.task(f"digits(hidden = [{hidden}], epochs = 20)", train=True)
    result = cv.evaluate(
        cv.loads(IDEA), task, protocol=cv.LDS(subsets=subsets, retrains=2), progress=False
    )
    print(result)
    result.figure("sweep").save(folder / "new_approximation.svg")
    return result


if __name__ == "__main__":
    main(Path())
