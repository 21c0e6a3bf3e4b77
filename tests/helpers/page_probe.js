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
document.getElementById("failing").click();
found.hidden = document.querySelectorAll(".case[hidden]").length;
parent.postMessage(JSON.stringify(found), "*");
