// The API page: shows openapi.json (OpenAPI v2) and lets each operation be tried.

const $ = (id) => document.getElementById(id);

function element(name, properties = {}, ...children) {
  const e = document.createElement(name);
  for (const [k, v] of Object.entries(properties)) {
    if (k === "class") e.className = v;
    else if (k.includes("-") || k === "for") e.setAttribute(k, v);
    else e[k] = v;
  }
  e.append(...children.filter((c) => c !== null));
  return e;
}

let doc;
const resolve = (schema) => (schema?.$ref ? doc.definitions[schema.$ref.split("/").pop()] : schema) ?? {};
const refName = (schema) => schema?.$ref?.split("/").pop();

function kindOf(schema) {
  if (schema.$ref) return refName(schema);
  if (schema.type === "array") return `array of ${kindOf(schema.items ?? {})}`;
  return schema.format ? `${schema.type}, ${schema.format}` : schema.type ?? "object";
}

// Values that make an example work as it stands.
const samples = {
  sender_id: "alice", receiver_id: "bob", user_id: "bob", content: "Hello Bob! Let's discuss the project deadline.", message_type: "text", status: "read",
};

// example returns what a value of a schema looks like. In a request only what a first try needs is filled in.
function example(schema, key = "", request = false, depth = 0) {
  const s = resolve(schema);
  if (s.example !== undefined) return s.example;
  if (s.enum) return s.enum.find((v) => !v.endsWith("_UNSPECIFIED")) ?? s.enum[0];
  switch (s.type) {
    case "array": return depth > 4 ? [] : [example(s.items, key, request, depth + 1)];
    case "boolean": return false;
    case "integer": return 0;
    case "number": return 0.5;
    case "string": return s.format === "date-time" ? new Date().toISOString() : samples[key] ?? "";
  }
  const out = {};
  if (depth > 4) return out;
  for (const [name, p] of Object.entries(s.properties ?? {})) {
    if (request && !["array", "object"].includes(resolve(p).type) && !(name in samples) && name !== "conversation_id") continue;
    if (request && name === "conversation_id" && s.properties.sender_id) continue; // derived from the two users
    out[name] = example(p, name, request, depth + 1);
  }
  return out;
}

function fieldList(schema) {
  const rows = Object.entries(resolve(schema).properties ?? {}).flatMap(([name, p]) => [
    element("dt", { textContent: name }),
    element("dd", {}, element("span", { class: "kind", textContent: kindOf(p) }), p.description || p.title ? ` — ${p.description ?? p.title}` : ""),
  ]);
  return rows.length ? element("dl", { class: "fields" }, ...rows) : null;
}

function shapes(title, schema, request) {
  if (!schema) return [];
  const nested = [];
  const seen = new Set([refName(schema)]);
  const walk = (s) => {
    for (const p of Object.values(resolve(s).properties ?? {})) {
      const inner = p.type === "array" ? p.items : p;
      const name = refName(inner);
      if (!name || seen.has(name) || name === "Any") continue;
      seen.add(name);
      if (resolve(inner).properties) nested.push(inner);
      walk(inner);
    }
  };
  walk(schema);
  return [
    element("h3", { textContent: title }),
    request ? null : element("pre", { tabIndex: 0, textContent: JSON.stringify(example(schema), null, 2) }), // a request's stands in the form
    fieldList(schema),
    ...nested.flatMap((n) => [element("h3", { textContent: refName(n) }), fieldList(n)]),
  ];
}

// ---- trying -------------------------------------------------------------------------------------------------------

function tryForm(path, verb, op) {
  const parameters = (op.parameters ?? []).filter((p) => p.in !== "body");
  const body = (op.parameters ?? []).find((p) => p.in === "body");
  const stream = (op.produces ?? []).includes("text/event-stream");
  const inputs = new Map();
  const fields = element("div", { class: "fields" });
  for (const p of parameters) {
    const id = `${op.operationId}-${p.name}`;
    const values = p.enum ?? p.items?.enum;
    const input = values
      ? element("select", { id }, element("option", { value: "", textContent: "any" }), ...values.filter((v) => !v.endsWith("_UNSPECIFIED")).map((v) => element("option", { value: v, textContent: v })))
      : element("input", { id, placeholder: p.required ? "required" : kindOf(p), required: p.required ?? false, autocomplete: "off", spellcheck: false });
    inputs.set(p, input);
    fields.append(element("label", { for: id, textContent: p.name }), element("div", {}, input, element("span", { class: "kind", textContent: (p.description ?? "").split("\n")[0] })));
  }
  const text = body ? element("textarea", { spellcheck: false, "aria-label": "Body", value: JSON.stringify(example(body.schema, "", true), null, 2) }) : null;
  const send = element("button", { type: "submit", textContent: stream ? "Listen" : "Send" });
  const stop = element("button", { type: "button", class: "plain", textContent: "Stop", hidden: true });
  const state = element("span", { class: "note", role: "status" });
  const curl = element("pre", { tabIndex: 0 });
  const result = element("pre", { tabIndex: 0, hidden: true });

  const request = () => {
    let at = path;
    const query = new URLSearchParams();
    const headers = {};
    for (const [p, input] of inputs) {
      const value = input.value.trim();
      if (p.in === "path") at = at.replace(`{${p.name}}`, encodeURIComponent(value));
      else if (!value) continue;
      else if (p.in === "header") headers[p.name] = value;
      else for (const v of p.type === "array" ? value.split(",") : [value]) query.append(p.name, v.trim());
    }
    if (text) headers["Content-Type"] = "application/json";
    const tail = query.toString();
    return { url: tail ? `${at}?${tail}` : at, headers, body: text?.value };
  };
  const quote = (s) => `'${s.replaceAll("'", `'\\''`)}'`;
  const show = () => {
    const r = request();
    const parts = [`curl ${stream ? "-N " : ""}${verb === "post" ? "-X POST " : ""}${quote(location.origin + r.url)}`];
    for (const [k, v] of Object.entries(r.headers)) parts.push(`-H ${quote(`${k}: ${v}`)}`);
    if (r.body) parts.push(`-d ${quote(r.body)}`);
    curl.textContent = parts.join(" \\\n  ");
  };
  show();

  let running = null;
  const form = element("form", {},
    element("h3", { textContent: "Try it" }), fields.children.length ? fields : null, text ? element("h3", { textContent: "Body" }) : null, text,
    element("div", { class: "row" }, send, stop, state), element("h3", { textContent: "As a command" }), curl, result);
  form.addEventListener("input", show);
  stop.addEventListener("click", () => running?.abort());
  form.addEventListener("submit", async (e) => {
    e.preventDefault();
    running?.abort();
    const mine = (running = new AbortController());
    const r = request();
    send.disabled = true;
    stop.hidden = !stream;
    result.hidden = false;
    result.textContent = "";
    const began = performance.now();
    try {
      const answer = await fetch(r.url, { method: verb.toUpperCase(), headers: r.headers, body: r.body, signal: mine.signal });
      state.textContent = `${answer.status} ${answer.statusText} after ${Math.round(performance.now() - began)} ms`;
      if (stream && answer.ok) await listen(answer, result);
      else result.textContent = pretty(await answer.text());
    } catch (error) {
      state.textContent = mine.signal.aborted ? "Stopped" : String(error.message ?? error);
    } finally {
      send.disabled = false;
      stop.hidden = true;
    }
  });
  return form;
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

// listen shows the newest lines of a stream.
async function listen(answer, result) {
  const lines = [];
  let rest = "";
  for (const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    lines.push(...parts);
    lines.splice(0, lines.length - 200);
    result.textContent = lines.join("\n");
    result.scrollTop = result.scrollHeight;
  }
}

// ---- the page -----------------------------------------------------------------------------------------------------

function operation(path, verb, op) {
  const [summary, ...more] = (op.summary ?? "").split("\n");
  const d = element("details", { class: "op", id: op.operationId },
    element("summary", {},
      element("span", { class: "verb", "data-verb": verb, textContent: verb.toUpperCase() }),
      element("span", { class: "path", textContent: path }),
      element("span", { class: "says", textContent: summary })));
  d.addEventListener("toggle", () => {
    if (d.childElementCount > 1) return; // filled when first opened
    const body = (op.parameters ?? []).find((p) => p.in === "body");
    const ok = op.responses["200"] ?? {};
    d.append(element("div", { class: "inside" },
      more.length || op.description ? element("p", { textContent: [...more, op.description ?? ""].join("\n").trim() }) : null,
      tryForm(path, verb, op),
      ...(body ? shapes("Request", body.schema, true) : []),
      element("h3", { textContent: "Answer" }),
      element("p", { textContent: ok.description === "A successful response." ? "200" : `200: ${ok.description ?? ""}` }),
      ...(ok.examples ? [element("pre", { tabIndex: 0, textContent: JSON.stringify(Object.values(ok.examples)[0], null, 2) })] : shapes("", ok.schema, false).slice(1)),
      ...(op.responses.default ? [element("p", { class: "note" }, "Errors are a ", element("a", { href: "#errors", textContent: "Status" }), ".")] : [])));
  });
  return d;
}

async function start() {
  const answer = await fetch("/openapi.json");
  doc = await answer.json();
  $("intro").append(element("h1", { textContent: `${doc.info.title} API` }), element("p", { textContent: doc.info.description }));
  for (const tag of doc.tags) {
    const group = element("section", { class: "group" }, element("h2", { textContent: tag.name }), element("p", { textContent: tag.description ?? "" }));
    const links = element("ul");
    for (const [path, verbs] of Object.entries(doc.paths)) {
      for (const [verb, op] of Object.entries(verbs)) {
        if (!op.tags?.includes(tag.name)) continue;
        group.append(operation(path, verb, op));
        links.append(element("li", {}, element("a", { href: `#${op.operationId}`, textContent: op.operationId.split("_").pop() })));
      }
    }
    if (links.childElementCount === 0) continue;
    $("operations").append(group);
    $("toc").append(element("h2", { textContent: tag.name }), links);
  }
  $("operations").append(element("section", { class: "group", id: "errors" },
    element("h2", { textContent: "Errors" }), element("p", { textContent: doc.definitions.Status.description }),
    element("pre", { tabIndex: 0, textContent: JSON.stringify(doc.definitions.Status.example, null, 2) })));
  const open = () => {
    const at = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (at?.tagName === "DETAILS") at.open = true;
    at?.scrollIntoView();
  };
  addEventListener("hashchange", open);
  if (location.hash) open();
}

start().catch((error) => $("intro").append(element("p", { class: "notice", textContent: `openapi.json could not be loaded: ${error.message}` })));
