"use strict";
const $ = (selector, within = document) => within.querySelector(selector);
const { inputs, params, example, limits } = JSON.parse($("#facts").textContent);
const SHOWN = 200;
const YES = ["true", "yes", "1"], NO = ["false", "no", "0"];

// Text to JSON. Digits stay as they are typed: a whole number may have more of them than JavaScript counts exactly.
function literal(column, text, comma = false) {
  const typed = text.trim();
  const short = typed.length > 40 ? typed.slice(0, 40) + "…" : typed;
  switch (column.kind) {
    case "text":
      return JSON.stringify(text);
    case "time":
      if (typed && Number.isNaN(Date.parse(typed)) && !/^\d{4}-(0[1-9]|1[0-2])-([0-2]\d|3[01])\b/.test(typed))
        throw new Error(`“${short}” is not a date such as 2026-01-31T12:00:00`);
      return typed ? JSON.stringify(typed) : "null";
    case "number": {
      if (!typed) return "null";
      const number = comma ? typed.replace(",", ".") : typed;
      if (!/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(number) || !Number.isFinite(Number(number)))
        throw new Error(`“${short}” is not a number` + (/^-?\d+,\d+$/.test(typed) ? ": write a point, not a comma" : ""));
      if (/^-?(0|[1-9]\d*)$/.test(number)) return number + ".0";
      return /^-?(0|[1-9]\d*)(\.\d+)?(e[+-]?\d+)?$/i.test(number) ? number : String(Number(number));
    }
    case "whole": {
      if (!typed && !column.required) return "null";
      if (!/^[+-]?\d+(\.0*)?$/.test(typed))
        throw new Error(typed ? `“${short}” is not a whole number` : "A whole number is missing");
      const whole = BigInt(typed.replace(/^\+|\..*/g, ""));
      if (BigInt.asIntN(column.bits, whole) !== whole) throw new Error(`“${short}” is too large for ${column.bits} bits`);
      return String(whole);
    }
    case "truth": {
      const word = typed.toLowerCase();
      if (YES.includes(word)) return "true";
      if (NO.includes(word)) return "false";
      if (!typed && !column.required) return "null";
      throw new Error(typed ? `“${short}” is neither true nor false` : "true or false is missing");
    }
    default:
      if (!typed && column.filled) throw new Error("JSON is missing");
      if (!typed) return "null";
      try { JSON.parse(typed); } catch { throw new Error(`“${short}” is not JSON`); }
      return typed;
  }
}

function shown(value) {
  if (value === null || value === undefined) return "";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

// Python writes NaN and Infinity, which are no JSON, and whole numbers of any length.
function parse(text) {
  const sound = text.replace(/"(?:[^"\\]|\\.)*"|-?\bInfinity\b|\bNaN\b/g, (found) => (found[0] === '"' ? found : `"${found}"`));
  return JSON.parse(sound, (_, value, context) => {
    const exact = typeof value !== "number" || Number.isSafeInteger(value) || !/^-?\d+$/.test(context?.source ?? "");
    return exact ? value : context.source;
  });
}

const STATUS = {
  400: "The model does not take these values.", 401: "This server wants a token, which a page cannot send.",
  413: "That is more than this server takes at once.", 500: "The model failed on these values. The server's log says why.",
  503: "The server is busy or not ready. Try again in a moment.", 504: "The prediction took too long.",
};

async function ask(body) {
  let answer, text;
  try {
    answer = await fetch("invocations", { method: "POST", headers: { "Content-Type": "application/json" }, body });
    text = await answer.text();
  } catch {
    throw new Error("The server does not answer. Does it still run?");
  }
  if (answer.ok) {
    const told = parse(text);
    return told && typeof told === "object" && "predictions" in told ? told.predictions : told;
  }
  let detail = text;
  try { detail = JSON.parse(text).message ?? text; } catch { /* some errors are plain text */ }
  const error = new Error(STATUS[answer.status] ?? `The server answered ${answer.status}.`);
  // MLflow tells the whole table and the whole signature before what is wrong.
  error.detail = String(detail).replace(/^.*Failed to convert column (\S+) to type .*'MlflowException\((["'])(.*)\2\)'$/s, "'$1': $3").replace(/^.*\bError: (?=[A-Z][a-z]+ )/s, "").replace(/^(Invalid input\. |Data is not compatible with model signature\. )+/, "");
  throw error;
}

function request(columns, rows, given) {
  const table = `{"dataframe_split": {"columns": ${JSON.stringify(columns.map((c) => c.name))}, "data": [${rows.map((row) => `[${row.join(", ")}]`).join(", ")}]}`;
  return given.length ? `${table}, "params": {${given.join(", ")}}}` : table + "}";
}

// What is optional and not there at all is left out; anything else that is empty is sent as null.
function without(columns, rows) {
  const kept = columns.map((column, n) => column.required || rows.some((row) => row[n] !== "null" && row[n] !== '""'));
  return [columns.filter((_, n) => kept[n]), rows.map((row) => row.filter((_, n) => kept[n]))];
}

const field = (side, n) => $(`#${side}${n}`);
function mark(input, message) {
  const place = document.getElementById(input.id + "-wrong");
  place.textContent = message;
  input.setAttribute("aria-invalid", message ? "true" : "false");
}

function readFields(side, columns) {
  let first = null;
  const values = columns.map((column, n) => {
    const input = field(side, n);
    mark(input, "");
    try {
      return literal(column, input.value);
    } catch (error) {
      mark(input, error.message);
      first ??= input;
      return null;
    }
  });
  return [values, first];
}

function readParams() {
  const [values, wrong] = readFields("p", params);
  const given = params.map((param, n) => `${JSON.stringify(param.name)}: ${values[n]}`);
  return [given.filter((_, n) => field("p", n).value.trim() !== ""), wrong];
}

function element(name, text, ...classes) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  made.classList.add(...classes);
  return made;
}

function asTable(predictions) {
  const rows = Array.isArray(predictions) ? predictions : null;
  if (!rows?.length) return null;
  if (rows.every((row) => row && typeof row === "object" && !Array.isArray(row))) {
    const names = [...new Set(rows.flatMap(Object.keys))];
    return { names, rows: rows.map((row) => names.map((name) => row[name])) };
  }
  const width = Array.isArray(rows[0]) ? rows[0].length : 0;
  if (width && rows.every((row) => Array.isArray(row) && row.length === width)) {
    return { names: rows[0].map((_, n) => `prediction ${n + 1}`), rows };
  }
  return { names: ["prediction"], rows: rows.map((row) => [row]) };
}

function drawTable(table, given) {
  const made = element("table"), body = element("tbody"), head = element("tr");
  const sides = [[table.names, table.rows, "answer"], ...(given ? [[given.names, given.rows, "given"]] : [])];
  const numbers = sides.map(([names, rows]) => names.map((_, n) => rows.every((row) => row[n] == null || typeof row[n] === "number" || (row[n] !== "" && !Number.isNaN(Number(row[n]))))));
  const many = table.rows.length > 1;
  const add = (row, name, text, ...classes) => { const cell = element(name, text, ...classes); if (name === "th") cell.scope = "col"; row.append(cell); };
  if (many) add(head, "th", "row", "number");
  sides.forEach(([names], side) => names.forEach((name, n) => add(head, "th", name, ...(numbers[side][n] ? ["number"] : []))));
  table.rows.slice(0, SHOWN).forEach((_, r) => {
    const row = element("tr");
    if (many) add(row, "td", String(r + 1), "number", "given");
    sides.forEach(([names, rows, kind], side) => names.forEach((_, n) => add(row, "td", shown(rows[r][n]), kind, ...(numbers[side][n] ? ["number"] : []))));
    body.append(row);
  });
  const top = element("thead");
  top.append(head);
  made.append(top, body);
  const wide = element("div", undefined, "wide");
  wide.tabIndex = 0;
  wide.setAttribute("role", "region");
  wide.setAttribute("aria-label", given ? "Answers, row by row" : "Answer");
  wide.append(made);
  return wide;
}

const round = (number) => String(Number(number.toPrecision(4)));
function drawPlot(name, values) {
  const low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b));
  const sorted = [...values].sort((a, b) => a - b), middle = sorted.length >> 1;
  const median = sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
  const bins = high > low ? Math.min(24, Math.max(5, Math.ceil(Math.sqrt(values.length)))) : 1;
  const counts = new Array(bins).fill(0);
  for (const value of values) counts[Math.min(bins - 1, Math.floor(((value - low) / (high - low || 1)) * bins))] += 1;
  const most = Math.max(...counts), width = 320, height = 90;
  const NS = "http://www.w3.org/2000/svg";
  const draw = (kind, attributes, text) => {
    const made = document.createElementNS(NS, kind);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height + 18}`, role: "img", "aria-label": `${name}: how often which value, from ${round(low)} to ${round(high)}` });
  counts.forEach((count, n) => {
    const tall = (count / most) * height, step = width / bins;
    const bar = draw("rect", { x: n * step + 1, y: height - tall, width: Math.max(1, Math.min(step, 80) - 2), height: tall });
    const from = low + ((high - low) * n) / bins, to = low + ((high - low) * (n + 1)) / bins;
    bar.append(draw("title", {}, `${round(from)} to ${round(to)}: ${count}`));
    svg.append(bar);
  });
  svg.append(draw("line", { x1: 0, y1: height, x2: width, y2: height }), draw("text", { x: 0, y: height + 14 }, round(low)));
  if (high > low) svg.append(draw("text", { x: width, y: height + 14, "text-anchor": "end" }, round(high)));
  const figure = element("figure"), caption = element("figcaption");
  caption.append(element("strong", name), ` median ${round(median)}, from ${round(low)} to ${round(high)}`);
  figure.append(caption, svg);
  return figure;
}

function describe(table) {
  const plots = element("div", undefined, "plots");
  table.names.forEach((name, n) => {
    const values = table.rows.map((row) => row[n]).filter((value) => value != null);
    if (values.length < 2) return;
    if (values.every((value) => typeof value === "number")) return plots.append(drawPlot(name, values));
    const counts = new Map();
    for (const value of values) counts.set(shown(value), (counts.get(shown(value)) ?? 0) + 1);
    if (counts.size > 8) return;
    const figure = element("figure"), caption = element("figcaption");
    caption.append(element("strong", name), " " + [...counts].map(([value, count]) => `${value}: ${count}`).join(", "));
    figure.append(caption);
    plots.append(figure);
  });
  return plots;
}

function save(table, given) {
  const quote = (value) => (/[",\r\n]/.test(shown(value)) ? `"${shown(value).replaceAll('"', '""')}"` : shown(value));
  const names = [...(given?.names ?? []), ...table.names];
  const lines = table.rows.map((row, n) => [...(given?.rows[n] ?? []), ...row].map(quote).join(","));
  const link = element("a");
  link.href = URL.createObjectURL(new Blob([[names.map(quote).join(","), ...lines, ""].join("\r\n")], { type: "text/csv" }));
  link.download = "predictions.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function fail(place, error) {
  place.classList.add("bad");
  place.replaceChildren(element("h3", error.message));
  for (const line of error.lines ?? (error.detail ? [error.detail] : [])) place.append(element("p", line));
}

function show(place, predictions, given) {
  const table = asTable(predictions);
  place.replaceChildren(element("h3", table && table.rows.length > 1 ? `${table.rows.length} predictions` : "Prediction"));
  if (!table) {
    const text = element("pre", JSON.stringify(predictions, null, 1));
    text.tabIndex = 0;
    return place.append(text);
  }
  const beside = given?.rows.length === table.rows.length ? given : undefined;
  place.append(describe(table), drawTable(table, beside));
  if (table.rows.length > SHOWN) place.append(element("p", `The first ${SHOWN} are shown; the CSV has all.`, "soft"));
  if (table.rows.length > 1) {
    const button = element("button", "Download as CSV", "plain"), actions = element("div", undefined, "actions");
    button.type = "button";
    button.addEventListener("click", () => save(table, beside));
    actions.append(button);
    place.append(actions);
  }
}

// An error that names a column is said at its field as well.
function markNamed(error) {
  const detail = error.detail ?? "";
  const named = inputs.findIndex(({ name }) => new RegExp(`(?:\\bcolumn |['"])${name.replace(/[^\w]/g, "\\$&")}(?:['"\\s.,:]|$)`).test(detail));
  if (named < 0) return;
  mark(field("i", named), detail);
  field("i", named).focus();
}

function onSubmit(id, work) {
  const form = $(id);
  form?.addEventListener("submit", async (event) => {
    event.preventDefault();
    const place = $(".result", form), button = $("button", form);
    place.classList.remove("bad");
    button.disabled = true;
    try {
      const found = await work(place);
      if (found) show(place, ...found);
    } catch (error) {
      fail(place, error);
      if (id === "#row") markNamed(error);
    } finally {
      button.disabled = false;
    }
  });
}

onSubmit("#row", async (place) => {
  const [values, wrong] = readFields("i", inputs), [given, wrongParam] = readParams();
  place.replaceChildren();
  if (wrong ?? wrongParam) {
    (wrong ?? wrongParam).focus();
    const count = document.querySelectorAll("#row [aria-invalid=true]").length;
    throw new Error(count > 1 ? `${count} fields are not filled in as the model needs them.` : "One field is not filled in as the model needs it.");
  }
  const [columns, rows] = without(inputs, [values]);
  return [await ask(request(columns, rows, given))];
});

// RFC 4180, with the separator that the first line has most of: a copied table has tabs.
function readTable(text) {
  const start = text.replace(/^\uFEFF/, "").replace(/^(\s*\r?\n)+/, ""), line = start.split(/\r?\n/, 1)[0];
  const separator = ["\t", ";", ","].reduce((best, each) => (line.split(each).length > line.split(best).length ? each : best));
  const rows = [[]];
  const cells = new RegExp(`(?:"((?:[^"]|"")*)"|([^${separator}\\r\\n]*))(${separator}|\\r?\\n|\\r|$)`, "gy");
  for (let found; (found = cells.exec(start)); ) {
    rows.at(-1).push(found[1] === undefined ? found[2] : found[1].replaceAll('""', '"'));
    if (!found[3]) break;
    if (found[3] !== separator) rows.push([]);
  }
  if (cells.lastIndex < start.length) throw new Error("The table has a quote that is not closed, or text after one.");
  return [rows.filter((row) => row.length > 1 || row[0] !== "" || (inputs.length === 1 && inputs[0].kind === "text" && rows.at(-1) !== row)), separator === ";"];
}

function readRows(text) {
  const [rows, comma] = readTable(text);
  if (!rows.length) throw new Error("There are no rows yet: paste some, or choose a file.");
  const names = inputs.map((column) => column.name), first = rows[0].map((cell) => cell.trim());
  const hasHead = first.some((cell) => names.includes(cell));
  const head = hasHead ? first : names;
  if (hasHead) rows.shift();
  const lines = [];
  const twice = names.filter((name) => head.indexOf(name) !== head.lastIndexOf(name));
  if (twice.length) lines.push(`In the header twice: ${twice.join(", ")}`);
  const missing = inputs.filter((column) => column.required && !head.includes(column.name));
  if (missing.length) lines.push(`Columns that are missing: ${missing.map((column) => column.name).join(", ")}`);
  if (hasHead && !rows.length) lines.push("Below the header is no row.");
  if (limits.rows && rows.length > limits.rows) lines.push(`${rows.length} rows; this server takes ${limits.rows} at once.`);
  const columns = inputs.filter((column) => head.includes(column.name)), places = columns.map((column) => head.indexOf(column.name));
  let count = lines.length;
  const data = lines.length ? [] : rows.map((row, r) => {
    if (row.length !== head.length) {
      if (++count <= 6) lines.push(`Row ${r + 1}: ${row.length} of ${head.length} values`);
      return [];
    }
    return columns.map((column, n) => {
      try { return literal(column, row[places[n]], comma); } catch (error) {
        if (++count <= 6) lines.push(`Row ${r + 1}, ${column.name}: ${error.message}`);
        return "null";
      }
    });
  });
  if (count) {
    if (count > lines.length) lines.push(`and ${count - lines.length} more`);
    throw Object.assign(new Error("These rows cannot be sent yet."), { lines });
  }
  const unknown = head.filter((name) => !names.includes(name));
  return { columns, data, given: { names: head, rows }, note: unknown.length ? `Not sent, since the model has no such columns: ${unknown.join(", ")}` : "" };
}

let held = null;
const pasted = $("#pasted"), file = $("#file"), note = $("#note");
file?.addEventListener("change", async () => {
  const [chosen] = file.files;
  if (!chosen) return;
  const text = await chosen.text(), large = text.length > 200000;
  held = large ? text : null;
  pasted.value = large ? "" : text;
  note.textContent = large ? `${chosen.name} is read.` : "";
});
pasted?.addEventListener("input", () => { held = null; if (file.value) { file.value = ""; note.textContent = ""; } });

onSubmit("#rows", async (place) => {
  const [given, wrongParam] = readParams();
  place.replaceChildren();
  if (wrongParam) { wrongParam.focus(); throw new Error("A parameter is not filled in as the model needs it."); }
  const read = readRows(held ?? pasted.value);
  note.textContent = read.note;
  const body = request(...without(read.columns, read.data), given);
  if (limits.body && new Blob([body]).size > limits.body) throw new Error(`That is more than this server takes at once: ${limits.body} bytes.`);
  return [await ask(body), read.given];
});

onSubmit("#json", async (place) => {
  place.replaceChildren();
  return [await ask($("#request").value)];
});

$("#example")?.addEventListener("change", (event) => {
  const row = example.data[event.target.value];
  inputs.forEach((column, n) => {
    const input = field("i", n), place = example.columns.indexOf(column.name);
    mark(input, "");
    input.value = row && place >= 0 ? shown(row[place]) : "";
  });
});
$("#all")?.addEventListener("click", () => {
  const quote = (value) => (/[\t"\r\n]/.test(shown(value)) ? `"${shown(value).replaceAll('"', '""')}"` : shown(value));
  pasted.value = [example.columns, ...example.data].map((row) => row.map(quote).join("\t")).join("\n");
  held = null;
});
