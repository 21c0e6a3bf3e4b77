// Runs in the evaluation page, in a frame: what a reader's eye would trip over.
const read = "h1,h2,h3,p,td,th,li,pre,summary,button,span,b";
const texts = [...document.querySelectorAll(read)].filter((e) => e.innerText && e.getClientRects().length);
const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
const light = (c) => {
  const [r, g, b] = c.match(/[\d.]+/g).map((v) => linear(v / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = (e) => {
  for (; e; e = e.parentElement) {
    const c = getComputedStyle(e).backgroundColor;
    if (c !== "rgba(0, 0, 0, 0)") return c;
  }
  return "rgb(255, 255, 255)";
};
const contrast = (e) => {
  const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x);
  return (a + 0.05) / (b + 0.05);
};
const found = {
  width: innerWidth,
  needed: document.documentElement.scrollWidth,
  smallest: Math.min(...texts.map((e) => parseFloat(getComputedStyle(e).fontSize))),
  contrast: Math.min(...texts.map(contrast)),
  out: texts.filter((e) => e.getBoundingClientRect().right > innerWidth + 1).length,
  button: document.getElementById("failing").getBoundingClientRect().height,
  open: document.querySelectorAll("details[open]").length,
  cases: document.querySelectorAll(".case").length,
};
found.thoughts = [document.querySelectorAll(".thought").length, document.querySelectorAll(".thought[open]").length];
const reached = [...document.querySelectorAll("a,button,input,summary")].filter((e) => e.getClientRects().length);
found.unnamed = reached.filter((e) => !(e.innerText || e.getAttribute("aria-label"))).length;
// The keyboard: what each key does to the focus, from a fresh page.
const press = (key, target = document.activeElement) =>
  target.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
const focused = () => document.activeElement.querySelector("b")?.innerText ?? document.activeElement.id;
const only = () => document.getElementById("failing").getAttribute("aria-pressed");
found.keys = {};
press("j", document.body);
found.keys.j = focused();
found.outline = parseFloat(getComputedStyle(document.activeElement).outlineWidth);
press("j");
found.keys.jj = focused();
press("k");
found.keys.k = focused();
press("/");
found.keys.slash = focused();
press("f");
found.keys.typed_f = only();
document.activeElement.blur();
found.keys.skip = document.querySelector("a").innerText;
press("f", document.body);
found.keys.f = only();
found.hidden = document.querySelectorAll(".case[hidden]").length;
parent.postMessage(JSON.stringify(found), "*");
