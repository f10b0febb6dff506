"use strict";
const spaced = n => n >= 10000 ? String(n).replace(/\B(?=(\d{3})+$)/g, "\u202f") : String(n);

for (const timeline of document.querySelectorAll(".timeline")) {
  const range = timeline.querySelector("input"), output = timeline.querySelector("output"), play = timeline.querySelector(".play");
  if (!range) continue;
  const films = [...timeline.querySelectorAll("figure")].map(figure => ({
    figure, images: [...figure.querySelectorAll("img")], label: figure.querySelector(".shown b"),
    steps: JSON.parse(figure.dataset.steps), map: JSON.parse(figure.dataset.map) }));
  const show = () => {
    const point = Number(range.value);
    for (const film of films) {
      film.images.forEach((image, i) => { image.hidden = i !== film.map[point]; });
      if (film.label) film.label.textContent = spaced(film.steps[film.map[point]]);
    }
    const part = Math.round(100 * point / Number(range.max));
    output.textContent = output.dataset.shared ? (part === 100 ? "all of training" : part + " % of training")
                                               : "step " + spaced(films[0].steps[films[0].map[point]]);
  };
  let timer = 0;
  const stop = () => { clearInterval(timer); timer = 0; play.classList.remove("on"); play.setAttribute("aria-label", "Play"); };
  play.addEventListener("click", () => {
    if (timer) return stop();
    if (range.value === range.max) { range.value = 0; show(); }
    play.classList.add("on"); play.setAttribute("aria-label", "Pause");
    timer = setInterval(() => {
      range.value = Number(range.value) + 1; show();
      if (range.value === range.max) stop();
    }, Math.max(160, 6000 / Number(range.max)));
  });
  range.addEventListener("input", () => { stop(); show(); });
  show();
}

for (const divided of document.querySelectorAll(".divided")) {
  const names = JSON.parse(divided.dataset.names), sides = ["left", "right"];
  const stage = divided.querySelector(".stage"), range = stage.querySelector("input"), choices = divided.querySelector(".choices");
  const selects = [...choices.querySelectorAll("select")], list = divided.querySelector(".rows");
  const rows = [...list.querySelectorAll(".row")].map(row => [...row.querySelectorAll("img")]);
  let chosen = 0;
  const show = () => {
    stage.style.setProperty("--at", range.value + "%");
    sides.forEach((side, i) => {
      const picture = rows[chosen][selects[i].value], image = stage.querySelector("img." + side);
      image.src = picture.src; image.alt = picture.alt;
      image.width = picture.getAttribute("width"); image.height = picture.getAttribute("height");
      stage.querySelector("b." + side).textContent = names[selects[i].value];
    });
    range.setAttribute("aria-valuetext", `${names[selects[0].value]} ${Math.round(range.value)} %, then ${names[selects[1].value]}`);
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", i === chosen));
  };
  const buttons = rows.map((row, i) => {
    const button = document.createElement("button"), image = document.createElement("img");
    button.type = "button"; button.setAttribute("aria-label", "Picture " + (i + 1));
    image.src = row[0].src; image.alt = ""; button.append(image);
    button.addEventListener("click", () => { chosen = i; show(); });
    return button;
  });
  if (buttons.length > 1) choices.firstElementChild.append(...buttons);
  selects[1].value = divided.dataset.right;
  selects.forEach(select => select.addEventListener("change", show));
  range.addEventListener("input", show);
  stage.hidden = choices.hidden = false; list.hidden = true;
  show();
}

for (const plot of document.querySelectorAll(".plot[data-lines]")) {
  const lines = JSON.parse(plot.dataset.lines), names = JSON.parse(plot.dataset.names), [first, last] = JSON.parse(plot.dataset.domain);
  const colors = JSON.parse(plot.dataset.colors);
  const cursor = document.createElement("div"), readout = document.createElement("div");
  cursor.className = "cursor"; readout.className = "readout"; cursor.hidden = readout.hidden = true;
  plot.append(cursor, readout);
  plot.addEventListener("pointermove", event => {
    const box = plot.getBoundingClientRect();
    const wanted = first + (last - first) * (event.clientX - box.left) / box.width;
    const nearest = points => points.reduce((best, p) => Math.abs(p[0] - wanted) < Math.abs(best[0] - wanted) ? p : best);
    const found = lines.map(nearest);
    const at = found.reduce((best, p) => Math.abs(p[0] - wanted) < Math.abs(best[0] - wanted) ? p : best)[0];
    readout.replaceChildren(document.createTextNode(plot.dataset.x + " " + (plot.dataset.x === "step" ? spaced(at) : at)));
    found.forEach((p, i) => {
      const row = document.createElement("div"), swatch = document.createElement("i");
      swatch.style.background = colors[i];
      row.append(swatch, names[i] + " " + p[1]); readout.append(row);
    });
    const left = (at - first) / Math.max(last - first, 1e-12) * box.width;
    cursor.style.left = left + "px";
    cursor.hidden = readout.hidden = false;
    readout.style.left = Math.max(0, left + (left > box.width / 2 ? -readout.offsetWidth - 10 : 10)) + "px";
  });
  plot.addEventListener("pointerleave", () => { cursor.hidden = readout.hidden = true; });
}

for (const button of document.querySelectorAll(".copy")) {
  button.addEventListener("click", async () => {
    const code = button.previousElementSibling;
    try { await navigator.clipboard.writeText(code.textContent); }
    catch { getSelection().selectAllChildren(code); document.execCommand("copy"); }
    button.textContent = "copied";
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  });
}

// Pixels stay squares where a picture is enlarged at least twice; below that, squares would be of uneven sizes.
const sharpen = new ResizeObserver(entries => {
  for (const { target } of entries) {
    if (target.width && target.naturalWidth) target.classList.toggle("pixels", target.width * devicePixelRatio / target.naturalWidth >= 2);
  }
});
for (const image of document.querySelectorAll(".sheet, .stage img")) sharpen.observe(image);

const zoom = document.getElementById("zoom");
for (const image of document.querySelectorAll(".sheet")) {
  image.addEventListener("click", () => {
    const large = zoom.firstElementChild, width = Number(image.getAttribute("width")), height = Number(image.getAttribute("height"));
    large.src = image.src; large.alt = image.alt;
    large.width = width * Math.max(1, Math.floor(Math.min(innerWidth * 0.95 / width, innerHeight * 0.95 / height)));
    zoom.showModal();
  });
}
zoom.addEventListener("click", () => zoom.close());
