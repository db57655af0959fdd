"use strict";
// The page is whole without this script; it adds a closer look at the treemaps and, for print,
// the folded parts of moderate length.
for (const map of document.querySelectorAll("svg.map")) {
  const whole = map.getAttribute("viewBox");
  const fit = () => {
    const box = map.viewBox.baseVal;
    const scale = box.width / Number(whole.split(" ")[2]);
    for (const group of map.children) {
      const label = group.querySelector("text");
      if (!label) continue;
      const place = group.querySelector("rect");
      const width = Number(place.getAttribute("width"));
      const height = Number(place.getAttribute("height"));
      label.style.fontSize = `${11 * scale}px`;
      label.setAttribute("x", Number(place.getAttribute("x")) + 4 * scale);
      label.setAttribute("y", Number(place.getAttribute("y")) + 12.5 * scale);
      const room = Math.floor((width / scale - 8) / 6.4);
      const name = label.dataset.name;
      label.textContent = name.length <= room ? name : `${name.slice(0, Math.max(room - 1, 0))}…`;
      label.style.display = room >= 4 && height / scale >= 14 ? "" : "none";
    }
    map.classList.toggle("near", map.getAttribute("viewBox") !== whole);
  };
  const path = [];
  const show = (box) => {
    map.setAttribute("viewBox", box);
    fit();
  };
  const back = () => show(path.pop() ?? whole);
  map.addEventListener("click", (event) => {
    const view = map.viewBox.baseVal;
    // The outermost group under the pointer that is smaller than what is shown.
    const next = [...map.querySelectorAll("rect.open")].find((place) => {
      const { x, y, width, height } = place.getBBox();
      const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(map.getScreenCTM().inverse());
      const inside = point.x >= x && point.x <= x + width && point.y >= y && point.y <= y + height;
      return inside && width * height < view.width * view.height * 0.98;
    });
    if (!next) {
      back();
      return;
    }
    path.push(map.getAttribute("viewBox"));
    const { x, y, width, height } = next.getBBox();
    // Keep the map's proportions: the group in the middle of a box of the same shape.
    const [, , w, h] = whole.split(" ").map(Number);
    const scale = Math.max(width / w, height / h);
    show(`${x + (width - w * scale) / 2} ${y + (height - h * scale) / 2} ${w * scale} ${h * scale}`);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && map.classList.contains("near")) back();
  });
}
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
