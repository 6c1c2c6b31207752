// Values are read off the figures of maps.

const palette = {};
const hex = document.querySelector("main").getAttribute("data-palette");
for (let i = 0; i < 255; i++) palette[parseInt(hex.substr(6 * i, 6), 16)] = i / 254;

function readable(figure) {
  var svg = figure.querySelector("svg"), image = svg.querySelector("image");
  if (!image) return;
  var number = function (name) { return Number(image.getAttribute(name)); };
  var box = { x: number("x"), y: number("y"), w: number("width"), h: number("height") };
  var tokens = Number(figure.getAttribute("data-tokens"));
  var low = Number(figure.getAttribute("data-low")), high = Number(figure.getAttribute("data-high"));
  var full = svg.getAttribute("viewBox").split(" ").map(Number), zoom = 1, at = { i: 0, j: 0 }, cells = null, side = 1;
  var tools = document.createElement("div");
  tools.className = "tools";
  var readout = document.createElement("output");
  readout.className = "readout";
  readout.textContent = "Point at the map, or focus it and use the arrow keys, to read values.";
  var mark = document.createElementNS(svg.namespaceURI, "rect");
  mark.setAttribute("fill", "none");
  mark.setAttribute("stroke", "#ffffff");
  mark.setAttribute("stroke-width", "6");
  mark.setAttribute("visibility", "hidden");
  svg.appendChild(mark);

  var picture = new Image();
  picture.addEventListener("load", function () {
    var canvas = document.createElement("canvas");
    side = canvas.width = canvas.height = picture.naturalWidth;
    var context = canvas.getContext("2d");
    context.drawImage(picture, 0, 0);
    cells = context.getImageData(0, 0, side, side).data;
  });
  picture.src = image.getAttribute("href");

  function show() {
    if (!cells) return;
    var p = 4 * (at.i * side + at.j), value = palette[(cells[p] << 16) + (cells[p + 1] << 8) + cells[p + 2]];
    var span = tokens / side;
    var position = function (k) {
      var from = Math.floor(k * span), to = Math.ceil((k + 1) * span) - 1;
      return to > from ? from + " to " + to : String(from);
    };
    var text = "no data";
    if (value !== undefined) {
      text = "cosine " + (low + value * (high - low)).toFixed(2);
      if (value === 0) text += " or less";
      if (value === 1 && high < 1) text += " or more";
    }
    readout.textContent = "Tokens " + position(at.i) + " and " + position(at.j) + ": " + text;
    var w = Math.max(box.w / side, 12);
    mark.setAttribute("x", box.x + (at.j + 0.5) * box.w / side - w / 2);
    mark.setAttribute("y", box.y + (at.i + 0.5) * box.h / side - w / 2);
    mark.setAttribute("width", w);
    mark.setAttribute("height", w);
    mark.setAttribute("visibility", "visible");
  }
  function view() {
    if (zoom === 1) { svg.setAttribute("viewBox", full.join(" ")); return; }
    var w = full[2] / zoom, h = full[3] / zoom;
    var clamp = function (v, most) { return Math.min(Math.max(v, 0), most); };
    var x = clamp(box.x + (at.j + 0.5) * box.w / side - w / 2, full[2] - w);
    var y = clamp(box.y + (at.i + 0.5) * box.h / side - h / 2, full[3] - h);
    svg.setAttribute("viewBox", [x, y, w, h].join(" "));
  }
  function move(i, j) {
    at = { i: Math.min(Math.max(i, 0), side - 1), j: Math.min(Math.max(j, 0), side - 1) };
    show();
  }
  svg.addEventListener("pointermove", function (event) {
    var matrix = svg.getScreenCTM();
    if (!matrix) return;
    var point = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix.inverse());
    var j = Math.floor((point.x - box.x) / box.w * side), i = Math.floor((point.y - box.y) / box.h * side);
    if (i >= 0 && j >= 0 && i < side && j < side) move(i, j);
  });
  svg.setAttribute("tabindex", "0");
  svg.addEventListener("keydown", function (event) {
    var far = event.shiftKey ? 10 : 1;
    var by = { ArrowUp: [-far, 0], ArrowDown: [far, 0], ArrowLeft: [0, -far], ArrowRight: [0, far] }[event.key];
    if (!by) return;
    event.preventDefault();
    move(at.i + by[0], at.j + by[1]);
    view();
  });
  [["Zoom in", function () { zoom = Math.min(zoom * 2, 16); }], ["Zoom out", function () { zoom = Math.max(zoom / 2, 1); }]]
    .forEach(function (item) {
      var button = document.createElement("button");
      button.type = "button";
      button.textContent = item[0];
      button.addEventListener("click", function () { item[1](); view(); });
      tools.appendChild(button);
    });
  tools.appendChild(readout);
  figure.querySelector(".paper").insertAdjacentElement("afterend", tools);
}
Array.prototype.forEach.call(document.querySelectorAll("figure[data-tokens]"), readable);
