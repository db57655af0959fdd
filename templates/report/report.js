"use strict";
// The page is whole without this script; it adds a closer look at the treemaps and, for print,
// the folded parts of moderate length.
const CHARACTER = 6.4; // width of one at the label's size, as in treemap.py

function closerLook(map) {
  const whole = { x: 0, y: 0, width: map.viewBox.baseVal.width, height: map.viewBox.baseVal.height };
  const cells = [...map.children].map((group) => {
    const rect = group.querySelector("rect");
    const [x, y, width, height] = ["x", "y", "width", "height"].map((name) => Number(rect.getAttribute(name)));
    return { rect, label: group.querySelector("text"), x, y, width, height };
  });
  const path = [];

  // Stretching both axes keeps the areas true to each other; labels keep their size.
  const show = (view) => {
    const across = whole.width / view.width;
    const down = whole.height / view.height;
    for (const cell of cells) {
      const x = (cell.x - view.x) * across;
      const y = (cell.y - view.y) * down;
      const width = cell.width * across;
      const height = cell.height * down;
      cell.rect.setAttribute("x", x);
      cell.rect.setAttribute("y", y);
      cell.rect.setAttribute("width", width);
      cell.rect.setAttribute("height", height);
      const room = Math.floor((width - 8) / CHARACTER);
      const name = cell.label.dataset.name;
      const fits = room >= 4 && height >= 17;
      cell.label.textContent = !fits ? "" : name.length <= room ? name : `${name.slice(0, room - 1)}…`;
      cell.label.setAttribute("x", x + 4);
      cell.label.setAttribute("y", y + 12.5);
    }
    map.classList.toggle("near", path.length > 0);
  };
  const back = () => {
    path.pop();
    show(path.at(-1) ?? whole);
  };

  map.addEventListener("click", (event) => {
    const view = path.at(-1) ?? whole;
    const screen = map.getBoundingClientRect();
    const x = view.x + ((event.clientX - screen.x) / screen.width) * view.width;
    const y = view.y + ((event.clientY - screen.y) / screen.height) * view.height;
    // Groups come before what is in them, so the first match is the outermost.
    const next = cells.find(
      (cell) =>
        cell.rect.classList.contains("open") &&
        x >= cell.x && x <= cell.x + cell.width && y >= cell.y && y <= cell.y + cell.height &&
        cell.width * cell.height < view.width * view.height * 0.999,
    );
    if (next) {
      path.push(next);
      show(next);
    } else if (path.length) {
      back();
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && path.length) back();
  });
}
document.querySelectorAll("svg.map").forEach(closerLook);

addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details:not([open])")) {
    if (part.textContent.length < 20000) {
      part.open = true;
      part.dataset.printed = "";
    }
  }
});
addEventListener("afterprint", () => {
  for (const part of document.querySelectorAll("details[data-printed]")) {
    part.open = false;
    delete part.dataset.printed;
  }
});
