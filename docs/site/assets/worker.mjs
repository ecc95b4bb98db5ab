// Python in a thread of its own: loads the language half of curvlang once, and answers calls of playground.py.

import { loadPyodide } from "./pyodide/pyodide.mjs";

const ready = (async () => {
  const [python, archive] = await Promise.all([
    loadPyodide({ indexURL: new URL("pyodide/", import.meta.url).href }),
    fetch(new URL("playground.zip", import.meta.url)).then((found) => found.arrayBuffer()),
  ]);
  python.unpackArchive(archive, "zip", { extractDir: "/playground" });
  python.runPython("import sys; sys.path.insert(0, '/playground')");
  return python.pyimport("playground");
})();

self.onmessage = async ({ data: { id, name, values } }) => {
  try {
    const answer = (await ready)[name](...values);
    self.postMessage({ id, answer: JSON.parse(answer) });
  } catch (error) {
    self.postMessage({ id, error: String(error) });
  }
};
