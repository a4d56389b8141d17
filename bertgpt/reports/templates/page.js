// Shows the values under the pointer. The page is complete without it.
for (const plot of document.querySelectorAll(".plot[data-series]")) {
  const series = JSON.parse(plot.dataset.series);
  const pointer = plot.appendChild(document.createElement("span"));
  const tip = plot.appendChild(document.createElement("span"));
  pointer.className = "pointer";
  tip.className = "tip";
  const hide = () => { pointer.hidden = tip.hidden = true; };
  hide();
  plot.addEventListener("pointerleave", hide);
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    const at = 100 * (event.clientX - box.left) / box.width;
    const near = series.map(({name, points}) => ({name, point: points.reduce(
      (best, point) => Math.abs(point[0] - at) < Math.abs(best[0] - at) ? point : best)}));
    const nearest = near.reduce((best, each) => Math.abs(each.point[0] - at) < Math.abs(best.point[0] - at) ? each : best);
    pointer.hidden = tip.hidden = false;
    pointer.style.left = `${nearest.point[0]}%`;
    tip.textContent = near.map(({name, point}) => `${name}: ${point[3]} at ${point[2]}`).join("\n");
    tip.style.left = at < 50 ? `${nearest.point[0] + 2}%` : "auto";
    tip.style.right = at < 50 ? "auto" : `${102 - nearest.point[0]}%`;
  });
}
