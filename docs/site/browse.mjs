// Visits every page of the site in headless Chromium: wide and narrow, light and dark; then uses the playground by clicks.
// node browse.mjs ADDRESS LIST FOLDER [PATTERN]: PATTERN is a regular expression of paths, LIST is a file with the paths of the pages; screenshots into FOLDER; exit code 1 where a page writes an error to the
// console, asks another host for anything, is wider than the window, or where the playground does not do what it should.

import { mkdirSync, readFileSync } from "node:fs";
import { chromium } from "playwright-core";

const [address, list, folder, pattern = ""] = process.argv.slice(2);
const WIDTHS = [1280, 390];
const SCHEMES = ["light", "dark"];
const HEIGHT = 900;
const PATIENCE = 3000; // milliseconds
const SETTLED = 300; // milliseconds that a change of colours or of the width takes
const faults = [];

mkdirSync(folder, { recursive: true });
const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const wanted = JSON.parse(readFileSync(list, "utf8")).filter((x) => new RegExp(pattern).test(x));
await visit();
if (wanted.includes("playground/")) await play();
await browser.close();
console.log(`${wanted.length} pages, ${WIDTHS.length * SCHEMES.length} times; ${faults.length} faults`);
for (const fault of faults) console.log(fault);
process.exit(faults.length ? 1 : 0);

async function opened(width, colorScheme) {
  const context = await browser.newContext({ viewport: { width, height: HEIGHT }, colorScheme });
  const page = await context.newPage();
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) faults.push(`${page.url()}: console: ${message.text()}`);
  });
  page.on("pageerror", (error) => faults.push(`${page.url()}: ${error}`));
  page.on("request", (request) => {
    if (!/^(data|blob):/.test(request.url()) && !request.url().startsWith(address)) faults.push(`${page.url()}: asks ${request.url()}`);
  });
  page.on("response", (response) => {
    if (response.status() >= 400) faults.push(`${page.url()}: ${response.status()} ${response.url()}`);
  });
  return page;
}

async function visit() {
  const page = await opened(WIDTHS[0], SCHEMES[0]);
  for (const path of wanted) {
    await page.goto(address + path, { waitUntil: "load" });
    for (const width of WIDTHS) for (const colorScheme of SCHEMES) {
      await page.setViewportSize({ width, height: HEIGHT });
      await page.emulateMedia({ colorScheme });
      await page.waitForTimeout(SETTLED);
      await look(page, `${width}-${colorScheme}-${path.replaceAll("/", "_") || "index"}`, colorScheme);
    }
  }
  await page.context().close();
}

async function look(page, name, colorScheme) {
  // A page is as wide as the window once its parts have moved to their places.
  await page.waitForFunction(() => document.documentElement.scrollWidth <= window.innerWidth, null, { timeout: PATIENCE }).catch(() => {});
  const found = await page.evaluate(() => ({
    wide: document.documentElement.scrollWidth - window.innerWidth,
    unset: document.querySelectorAll(".math:not([data-set])").length,
    broken: document.querySelectorAll(".katex-error").length,
    ground: getComputedStyle(document.body).backgroundColor,
  }));
  if (found.wide > 0) faults.push(`${name}: ${found.wide} pixels wider than the window`);
  if (found.unset + found.broken) faults.push(`${name}: ${found.unset} formulas not set, ${found.broken} broken`);
  const [red] = found.ground.match(/\d+/g).map(Number);
  if (colorScheme === "dark" ? red > 100 : red < 200) faults.push(`${name}: the background is ${found.ground}`);
  // Pages of one kind look alike: one of each ten has its picture taken.
  if (!/_E\d{3}[1-9]_/.test(name)) await page.screenshot({ path: `${folder}/${name}.jpeg`, quality: 70 });
}

async function play() {
  const page = await opened(1280, "light");
  const shown = page.locator("div.playground .output");
  const expected = async (what, text) => {
    try {
      await shown.filter({ hasText: text }).waitFor({ timeout: 90_000 });
    } catch {
      faults.push(`playground: ${what}: no “${text}” in “${(await shown.innerText()).slice(0, 200)}”`);
    }
  };
  await page.goto(`${address}playground/`);
  await page.getByRole("button", { name: "Check", exact: true }).click();
  await expected("a mistake", "error[E0303]: the index `r` is free on the right and absent on the left");
  await expected("its place", "--> playground.cv:5:19");
  await page.screenshot({ path: `${folder}/playground-mistake.png` });
  const editor = page.getByRole("textbox", { name: "The spec" });
  await editor.fill((await editor.inputValue()).replace("sum[o] g[n,r,t,o]^2", "sum[r,o]   g[n,r,t,o]^2"));
  await expected("checked while typing", "1 curvature, no errors");
  await page.getByRole("button", { name: "Format" }).click();
  await expected("format", "Formatted.");
  if (!(await editor.inputValue()).includes("sum[r,o] g[n,r,t,o]^2")) faults.push("playground: the text was not formatted");
  await page.getByRole("button", { name: "Explain" }).click();
  await expected("explain", "Kronecker: the factors over o,o' and over i,i' share no index");
  await page.screenshot({ path: `${folder}/playground-explained.png` });
  await page.getByLabel("Network").fill("10, 5");
  await page.getByRole("button", { name: "Explain" }).click();
  await expected("other sizes", "on a network of 10–5");
  await page.getByLabel("Network").fill("ten");
  await page.getByRole("button", { name: "Explain" }).click();
  await expected("wrong sizes", "Sizes are whole numbers");
  await page.getByLabel("Network").fill("64, 16, 10");
  await editor.fill("curvature mine = hessian |> kfax\n");
  await page.getByRole("button", { name: "Check", exact: true }).click();
  await page.getByRole("button", { name: "did you mean tkfac?" }).click();
  if (!(await editor.inputValue()).includes("|> tkfac")) faults.push("playground: the repair was not made");
  await expected("after the repair", "error[E0207]");
  await page.locator("select.examples").selectOption("ekfac");
  await page.getByRole("button", { name: "Explain" }).click();
  await expected("an example", "EigenBasis: orthogonal factors on both sides of a diagonal");
  await page.getByRole("button", { name: "Copy link" }).click();
  await page.reload();
  if (!(await editor.inputValue()).includes("curvature ekfac")) faults.push("playground: the link does not carry the text");
  await page.getByRole("button", { name: "Check", exact: true }).click();
  await expected("from a link", "no errors");
  await page.context().close();
}
