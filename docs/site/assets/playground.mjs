// The playground: an editor, what Python says about its text, and the repairs that it offers.

const STARTER = `# K-FAC whose input factor counts every example by the curvature it meets.
transform weighted_inputs {
  "A draft: what is wrong with it?"
  needs a[n,t,i], g[n,r,t,o]
  w[n,t] = sum[o] g[n,r,t,o]^2
  G[o,o'] = mean[n] sum[r,t] g[n,r,t,o] * g[n,r,t,o']
  B[i,i'] = mean[n] sum[t] w[n,t] * a[n,t,i] * a[n,t,i']
  yield C[o,i,o',i'] = G[o,o'] * B[i,i'] / max(trace(G), 1e-30)
}

curvature weighted = block_ggn |> weighted_inputs
`;
const PAUSE = 350; // milliseconds without a key, after which the text is checked
const LARGEST = 4096; // units of a layer: a plan of more takes the browser long

export async function start(place, assets) {
  const known = await (await fetch(new URL("playground.json", assets))).json();
  const page = new Page(place, known);
  const python = new Python(new URL("worker.mjs", assets));
  let timer;
  page.onRun = (name) => {
    clearTimeout(timer);
    run(page, python, name);
  };
  page.onEdit = () => {
    page.marks = [];
    page.paint();
    clearTimeout(timer);
    timer = setTimeout(() => python.started && run(page, python, "check"), PAUSE);
  };
}

async function run(page, python, name) {
  const text = page.text;
  const values = name === "explained" ? [text, page.curvature, ...page.sizes()] : [text];
  if (values.includes(null)) {
    page.asked = (page.asked ?? 0) + 1;
    page.say(`<span class="ansi-31">Sizes are whole numbers from 1: two widths or more, at most ${LARGEST}.</span>`);
    return;
  }
  const number = (page.asked = (page.asked ?? 0) + 1);
  page.state = python.started ? "running …" : "loading Python …";
  const since = performance.now();
  try {
    const answer = await python.call(name, values);
    page.state = `Python ready · ${Math.round(performance.now() - since)} ms`;
    if (page.asked === number && page.text === text) page.show(name, answer);
  } catch (error) {
    page.state = "Python could not be used";
    page.say(escaped(String(error.message ?? error)));
  }
}

class Python {
  constructor(address) {
    this.address = address;
    this.waiting = new Map();
    this.started = false;
  }

  call(name, values) {
    if (!this.worker) {
      this.worker = new Worker(this.address, { type: "module" });
      this.worker.onmessage = ({ data }) => {
        const { resolve, reject } = this.waiting.get(data.id);
        this.waiting.delete(data.id);
        this.started = true;
        data.error ? reject(new Error(data.error)) : resolve(data.answer);
      };
      this.worker.onerror = (event) => {
        for (const { reject } of this.waiting.values()) reject(new Error(event.message || "Python could not be loaded"));
        this.waiting.clear();
        this.worker = undefined;
      };
    }
    return new Promise((resolve, reject) => {
      const id = (this.last = (this.last ?? 0) + 1);
      this.waiting.set(id, { resolve, reject });
      this.worker.postMessage({ id, name, values });
    });
  }
}

class Page {
  constructor(place, known) {
    this.known = known;
    this.marks = [];
    this.colours = colours(known.words);
    const names = Object.keys(known.examples).map((x) => `<option>${escaped(x)}</option>`);
    place.innerHTML = `
      <div class="bar">
        <label>Example <select class="examples"><option value="">a draft with a mistake</option>${names.join("")}</select></label>
        <button class="main" data-run="check">Check</button>
        <button data-run="formatted">Format</button>
        <button data-run="explained">Explain</button>
        <button class="share">Copy link</button>
        <span class="state" role="status">Python is loaded when you press a button</span>
      </div>
      <div class="bar">
        <label>Network <input class="wide widths" value="64, 16, 10"></label>
        <label>positions T <input class="positions" value="1" inputmode="numeric"></label>
        <label>examples N <input class="rows" value="1617" inputmode="numeric"></label>
        <label>curvature <select class="curvature"><option value="">the last one</option></select></label>
      </div>
      <div class="pane"><div class="editor"><div class="gutter" aria-hidden="true"></div><div class="text"><pre aria-hidden="true"></pre>
        <textarea spellcheck="false" autocapitalize="off" autocomplete="off" aria-label="The spec"></textarea></div></div></div>
      <div class="pane" tabindex="0"><div class="output" role="region" aria-label="Output"><span class="hint">Press <b>Check</b>: every mistake is shown with its place, its reason and a repair.</span></div></div>`;
    this.at = (selector) => place.querySelector(selector);
    this.input = this.at("textarea");
    this.input.value = linked() ?? STARTER;
    this.input.addEventListener("input", () => this.onEdit());
    this.input.addEventListener("keydown", (event) => this.key(event));
    for (const button of place.querySelectorAll("[data-run]")) {
      button.addEventListener("click", () => this.onRun(button.dataset.run));
    }
    this.at(".examples").addEventListener("change", ({ target }) => {
      this.replace(0, this.text.length, target.value ? known.examples[target.value] : STARTER);
      this.at(".curvature").innerHTML = '<option value="">the last one</option>';
      this.onRun("check");
    });
    this.at(".share").addEventListener("click", () => this.share());
    this.paint();
  }

  get text() { return this.input.value; }
  get curvature() { return this.at(".curvature").value; }
  set state(text) { this.at(".state").textContent = text; }

  sizes() {
    const whole = (x, most) => (/^\s*\d+\s*$/.test(x) && +x >= 1 && +x <= most ? +x : null);
    const widths = this.at(".widths").value.split(/[,–\s-]+/).filter(Boolean).map((x) => whole(x, LARGEST));
    const fine = widths.length >= 2 && !widths.includes(null);
    return [fine ? widths : null, whole(this.at(".positions").value, LARGEST), whole(this.at(".rows").value, 1e12)];
  }

  key(event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      this.onRun("check");
    }
  }

  replace(start, end, text) {
    this.input.setRangeText(text, start, end, "end");
    this.marks = [];
    this.paint();
  }

  async share() {
    const address = new URL(location.href);
    address.hash = `code=${encodeURIComponent(this.text)}`;
    history.replaceState(null, "", address);
    try {
      await navigator.clipboard.writeText(address.href);
      this.state = "The link is on the clipboard";
    } catch {
      this.state = "The link is in the address bar";
    }
  }

  paint() {
    const count = this.text.split("\n").length;
    this.at(".gutter").textContent = Array.from({ length: count }, (_, k) => k + 1).join("\n");
    this.at("pre").innerHTML = painted(this.text, this.colours, this.marks) + "\n";
  }

  say(html) { this.at(".output").innerHTML = html; }

  show(name, answer) {
    if (answer.text !== undefined) {
      const same = answer.text === this.text;
      if (!same) this.replace(0, this.text.length, answer.text);
      this.say(`<span class="fine">${same ? "It has the one format already." : "Formatted."}</span>`);
      return;
    }
    const offsets = codeUnits(this.text);
    this.marks = answer.problems.flatMap((x) =>
      x.labels.filter((label) => label.file === "playground.cv").slice(0, 1)
        .map((label) => ({ start: offsets(label.start), end: offsets(label.end), kind: x.severity })));
    this.paint();
    if (answer.curvatures) this.choose(answer.curvatures);
    const repairs = answer.problems.flatMap((x) => x.repairs);
    const buttons = repairs.map((x, k) => `<button data-fix="${k}">${marked(x.title)}</button>`);
    const fixes = buttons.length ? `<div class="fixes">Repair: ${buttons.join("")}</div>` : "";
    const plain = !answer.failed && !answer.problems.length && name === "check";
    this.say(fixes + (plain ? `<span class="fine">${escaped(answer.shown)}</span>` : terminal(answer.shown)));
    for (const button of this.at(".output").querySelectorAll("[data-fix]")) {
      const { start, end, text } = repairs[button.dataset.fix];
      button.addEventListener("click", () => {
        this.replace(offsets(start), offsets(end), text);
        this.onRun("check");
      });
    }
  }

  choose(names) {
    const before = this.curvature;
    const options = names.map((x) => `<option ${x === before ? "selected" : ""}>${escaped(x)}</option>`);
    this.at(".curvature").innerHTML = `<option value="">the last one</option>${options.join("")}`;
  }
}

// Python counts characters, a text area counts code units.
function codeUnits(text) {
  const places = [0];
  for (const character of text) places.push(places.at(-1) + character.length);
  return (place) => places[Math.min(place, places.length - 1)];
}

function colours(words) {
  const word = (list) => `(?:${list.join("|")})(?![\\w'])`;
  return new RegExp(
    [`(?<c>#[^\\n]*)`, `(?<s>"[^"\\n]*")`, `(?<kd>(?<=^[ \\t]*)${word(words.items)})`,
      `(?<nb>\\b${word(words.functions)}(?=\\s*[\\[(]))`, `(?<ni>(?<=[\\[,|]\\s*)[^\\W\\d_]'*(?=\\s*[\\],|]))`,
      `(?<k>\\b${word(words.words)})`, `(?<nf>(?<=\\|>\\s*)\\w+)`, `(?<m>(?<!\\w)(?:\\d+\\.?\\d*|\\.\\d+)(?:[eE][+-]?\\d+)?)`,
      `(?<x>\\w+)`].join("|"), "gmu");
}

function painted(text, pattern, marks) {
  const spans = [];
  for (const found of text.matchAll(pattern)) {
    const [kind] = Object.entries(found.groups).find(([, value]) => value !== undefined);
    if (kind !== "x") spans.push({ start: found.index, end: found.index + found[0].length, kind });
  }
  const edges = new Set([0, text.length]);
  for (const { start, end } of [...spans, ...marks]) edges.add(start).add(end);
  const places = [...edges].sort((a, b) => a - b);
  const html = [];
  let next = 0;
  for (let k = 0; k + 1 < places.length; k++) {
    const [start, end] = [places[k], places[k + 1]];
    while (next < spans.length && spans[next].end <= start) next++;
    const inside = spans[next] && spans[next].start <= start ? [spans[next].kind] : [];
    const mark = marks.find((x) => x.start <= start && end <= x.end);
    const classes = [...inside, ...(mark ? [mark.kind] : [])];
    const piece = escaped(text.slice(start, end));
    html.push(classes.length ? `<span class="${classes.join(" ")}">${piece}</span>` : piece);
  }
  return `<code class="highlight">${html.join("")}</code>`;
}

// A terminal's text with its colours; codes lead to their pages.
function terminal(text) {
  let open = "";
  const parts = text.split(/(\x1b\[[\d;]*m)/).map((part) => {
    const style = part.match(/^\x1b\[([\d;]*)m$/);
    if (style) {
      const before = open ? "</span>" : "";
      const classes = style[1].split(";").filter((x) => x && x !== "0").map((x) => `ansi-${x}`);
      open = classes.join(" ");
      return before + (open ? `<span class="${open}">` : "");
    }
    return escaped(part).replace(/\b(E[01]\d{3})\b/g, '<a href="../diagnostics/$1/">$1</a>');
  });
  return parts.join("") + (open ? "</span>" : "");
}

function marked(text) { return escaped(text).replace(/`([^`]*)`/g, "<code>$1</code>"); }

function escaped(text) {
  return text.replace(/[&<>"]/g, (x) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[x]);
}

function linked() {
  const found = location.hash.match(/^#code=(.*)$/s);
  try {
    return found ? decodeURIComponent(found[1]) : undefined;
  } catch {
    return undefined;
  }
}
