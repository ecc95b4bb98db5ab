// Mathematics is set, and the playground is started, on every page that is shown.

const assets = new URL(".", document.currentScript.src);

// Messages have the colours of the terminal.
function paint(code) {
  const walker = document.createTreeWalker(code, NodeFilter.SHOW_TEXT);
  const texts = [];
  while (walker.nextNode()) texts.push(walker.currentNode);
  for (const text of texts) {
    const pieces = text.data.split(/^((?:error|warning)\[E\d{4}\])|(?<=^ *\|[ ]+)(\^+[^\n]*)/m).filter((x) => x);
    if (pieces.length < 2 && !/^(error|warning)\[E/.test(text.data)) continue;
    text.replaceWith(...pieces.map((piece) => {
      const kind = /^(error\[E|\^)/.test(piece) ? "ansi-31" : /^warning\[E/.test(piece) ? "ansi-33" : "";
      return kind ? Object.assign(document.createElement("b"), { className: kind, textContent: piece }) : piece;
    }));
  }
}

document$.subscribe(() => {
  for (const place of document.querySelectorAll(".math:not([data-set])")) {
    const text = place.textContent;
    katex.render(text, place, { displayMode: true, throwOnError: false, strict: false });
    place.dataset.set = "";
  }
  for (const code of document.querySelectorAll(".language-text code, .language-console code")) paint(code);
  const place = document.querySelector("div.playground");
  if (place && !place.childElementCount) {
    import(new URL("playground.mjs", assets)).then((module) => module.start(place, assets));
  }
});
