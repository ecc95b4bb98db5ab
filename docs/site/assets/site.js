// Mathematics is set, and the playground is started, on every page that is shown.

const assets = new URL(".", document.currentScript.src);

document$.subscribe(() => {
  for (const place of document.querySelectorAll(".math:not([data-set])")) {
    const text = place.textContent;
    katex.render(text, place, { displayMode: true, throwOnError: false, strict: false });
    place.dataset.set = "";
  }
  const place = document.querySelector("div.playground");
  if (place && !place.childElementCount) {
    import(new URL("playground.mjs", assets)).then((module) => module.start(place, assets));
  }
});
