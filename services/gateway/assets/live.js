// The live page: two event streams (alerts, trends) and the health report, shown as they come.
// What users wrote is only ever set as text, with characters that would hide or turn others shown as escapes.

const $ = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en");
const odd = /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;
const plain = (text) => String(text ?? "").replace(odd, (c) => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));

function element(name, properties = {}, ...children) {
  const e = document.createElement(name);
  for (const [k, v] of Object.entries(properties)) {
    if (k === "class") e.className = v;
    else if (k.startsWith("data-")) e.setAttribute(k, v);
    else e[k] = v;
  }
  e.append(...children);
  return e;
}

const ms = (iso) => Date.parse(iso ?? "") || 0;
const name = (text) => element("bdi", { textContent: plain(text) });

function ago(iso) {
  const then = new Date(iso);
  const s = Math.round((Date.now() - then) / 1000);
  if (s < -5) return then.toLocaleTimeString();
  if (s < 5) return "now";
  if (s < 60) return `${s} s ago`;
  if (s < 3600) return `${Math.floor(s / 60)} min ago`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ago`;
  return then.toLocaleDateString("en", { year: "numeric", month: "short", day: "numeric" });
}

function duration(from, to) {
  const s = Math.max(1, Math.round((new Date(to) - new Date(from)) / 1000));
  return s < 120 ? `${s} s` : `${Math.round(s / 60)} min`;
}

// A drawing happens at most once per frame however many events come, and none while nobody looks.
const dirty = new Set();
function redraw(draw) {
  if (dirty.size === 0) requestAnimationFrame(() => { for (const d of dirty) d(); dirty.clear(); });
  dirty.add(draw);
}

// ---- streams ------------------------------------------------------------------------------------------------------

const streams = [];

// stream follows an address over breaks: the browser comes back by itself with the last id; where it gives up (the server refused), we ask again,
// with the id at first and without it if that does not help.
class Stream {
  constructor(path, hear) {
    Object.assign(this, { path, hear, token: "", failures: 0, state: "wait" });
    streams.push(this);
    this.open();
  }
  open() {
    clearTimeout(this.timer);
    const url = this.token && this.failures < 2 ? `${this.path}?resume_token=${encodeURIComponent(this.token)}` : this.path;
    const source = (this.source = new EventSource(url));
    const seen = (e) => {
      this.token = e.lastEventId || this.token;
      this.failures = 0;
      this.set("live");
    };
    source.onopen = () => this.set("live");
    source.addEventListener("heartbeat", seen);
    source.onmessage = (e) => {
      seen(e);
      this.hear(JSON.parse(e.data));
    };
    source.onerror = () => {
      this.set("wait");
      if (source.readyState !== EventSource.CLOSED) return;
      source.close();
      this.failures++;
      this.timer = setTimeout(() => this.open(), Math.min(15000, 1000 * 2 ** Math.min(this.failures, 4)));
    };
  }
  pause() {
    clearTimeout(this.timer);
    this.source.close();
    this.set("paused");
  }
  set(state) {
    this.state = state;
    showLink();
  }
}

function showLink() {
  const is = (state) => streams.some((s) => s.state === state);
  const [state, text] = is("paused") ? ["paused", "Paused"] : is("wait") ? ["wait", streams.some((s) => s.token) ? "Reconnecting" : "Connecting"] : ["live", "Live"];
  if ($("link").dataset.state === state && $("link-text").textContent === text) return;
  $("link").dataset.state = state;
  $("link-text").textContent = text;
}

// A browser has six connections to a server for all its tabs: a tab that nobody sees gives its own back.
document.addEventListener("visibilitychange", () => {
  for (const s of streams) document.hidden ? s.pause() : s.open();
  if (!document.hidden) askHealth();
});

// ---- alerts -------------------------------------------------------------------------------------------------------

const MOST_ALERTS = 100;
const alerts = new Map(); // by alert_id
const rank = { OPEN: 0, CONFIRMED: 1, RESOLVED: 2, RETRACTED: 3 };
const stateOf = (a) => String(a.state).replace("ALERT_STATE_", "");

// Copies and corrections of an alert come in any order: the latest state and the largest count stay.
function takeAlert(a, fresh) {
  const old = alerts.get(a.alert_id);
  if (old) {
    if (rank[stateOf(a)] < rank[stateOf(old)] || (a.state === old.state && a.revision <= old.revision)) return;
    a.count = Math.max(a.count, old.count);
  }
  alerts.set(a.alert_id, a);
  a.fresh = fresh && !old;
  if (a.fresh) announce(a);
  redraw(drawAlerts);
}

const rows = new Map(); // by alert_id

function drawAlerts() {
  const sorted = [...alerts.values()].sort((a, b) => ms(b.triggered_at) - ms(a.triggered_at));
  for (const a of sorted.splice(MOST_ALERTS)) {
    alerts.delete(a.alert_id);
    rows.get(a.alert_id)?.remove();
    rows.delete(a.alert_id);
  }
  let before = null;
  const body = $("alerts");
  for (const a of sorted) {
    let tr = rows.get(a.alert_id);
    const version = `${a.state} ${a.revision} ${a.count}`;
    if (!tr || tr.dataset.version !== version) {
      const made = alertRow(a);
      made.dataset.version = version;
      tr ? tr.replaceWith(made) : body.append(made);
      rows.set(a.alert_id, (tr = made));
    }
    const place = before ? before.nextSibling : body.firstChild;
    if (place !== tr) body.insertBefore(tr, place);
    before = tr;
  }
  $("alerts-empty").hidden = sorted.length > 0;
  const open = sorted.filter((a) => stateOf(a) === "OPEN" || stateOf(a) === "CONFIRMED").length;
  $("open").textContent = number.format(open);
  $("open-note").textContent = sorted.length ? `of the ${number.format(sorted.length)} newest` : "none seen yet";
}

function alertRow(a) {
  const state = stateOf(a).toLowerCase();
  const conversations = a.conversation_ids?.length ?? 0;
  return element("tr", { class: a.fresh ? "fresh" : "", "data-state": state },
    element("td", {}, element("span", { class: "badge", "data-state": state, textContent: state[0].toUpperCase() + state.slice(1) })),
    element("td", { class: "name" }, name(a.user_id),
      element("span", { class: "sub", textContent: conversations === 1 ? "in one conversation" : conversations ? `in ${conversations} conversations` : "" })),
    element("td", { class: "num" }, element("strong", { textContent: number.format(a.count) }),
      element("span", { class: "sub", textContent: `in ${a.span_seconds || 60} s, limit ${number.format(a.threshold)}` })),
    element("td", { class: "num" }, element("time", { dateTime: a.triggered_at, title: new Date(a.triggered_at).toLocaleString(), textContent: ago(a.triggered_at) }),
      element("span", { class: "sub", textContent: ms(a.window_end) > ms(a.triggered_at) ? `lasted ${duration(a.triggered_at, a.window_end)}` : "" })));
}

setInterval(() => {
  for (const t of document.querySelectorAll("#alerts time")) t.textContent = ago(t.dateTime);
}, 5000);

// Screen readers hear of new alerts, but not of each in a burst.
let told = 0;
let untold = 0;
function announce(a) {
  untold++;
  if (Date.now() - told < 8000) return;
  told = Date.now();
  $("announce").textContent = untold > 1 ? `${untold} new alerts, the last one for ${plain(a.user_id)}` : `New alert: ${plain(a.user_id)} sent ${a.count} messages`;
  untold = 0;
}

// ---- trends -------------------------------------------------------------------------------------------------------

const MOST_TRENDS = 20;
const trends = new Map(); // by term: its latest window

function takeTrend(t) {
  const old = trends.get(t.term);
  if (old && (ms(t.window_start) < ms(old.window_start) || (t.window_start === old.window_start && t.revision < old.revision))) return;
  trends.set(t.term, t);
  redraw(drawTrends);
}

// Shown are the words of the last two minutes that have results: one window long.
function drawTrends() {
  const newest = Math.max(0, ...[...trends.values()].map((t) => ms(t.window_end)));
  for (const [term, t] of trends) if (newest - ms(t.window_end) > 120000) trends.delete(term);
  const best = [...trends.values()].sort((a, b) => b.score - a.score || b.count - a.count || (a.term < b.term ? -1 : 1)).slice(0, MOST_TRENDS);
  const most = Math.max(1, ...best.map((t) => t.score));
  $("trends").replaceChildren(...best.map((t) => {
    const gauge = element("span", { class: "gauge" });
    gauge.style.setProperty("--share", `${Math.max(2, Math.round((100 * Math.max(0, t.score)) / most))}%`);
    const senders = t.senders >= 64 ? "64+" : number.format(t.senders);
    return element("tr", {},
      element("td", { class: "name" }, name(t.term), gauge),
      element("td", { class: "num", textContent: (t.approximate ? "≈ " : "") + number.format(t.count) }),
      element("td", { class: "num", textContent: senders }),
      element("td", { class: "num", textContent: t.score.toFixed(1) }));
  }));
  $("trends-empty").hidden = best.length > 0;
  if (best.length === 0) return;
  const clock = new Date(newest).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
  const day = Date.now() - newest > 86400000 ? new Date(newest).toLocaleDateString("en-CA") + ", " : "";
  $("trends-note").textContent = `two minutes to ${day}${clock}`;
  $("top").replaceChildren(name(best[0].term));
  $("top").title = plain(best[0].term);
  $("top-note").textContent = `${number.format(best[0].count)} uses by ${best[0].senders >= 64 ? "64+" : best[0].senders} senders`;
}

// ---- health and rate ----------------------------------------------------------------------------------------------

const samples = []; // {at, n}: messages accepted by the whole mesh
const rates = [];
const POLL = 2000;

async function askHealth() {
  clearTimeout(askHealth.timer);
  if (!document.hidden) {
    try {
      const answer = await fetch("/api/v1/health", { cache: "no-store" });
      showHealth(await answer.json());
    } catch {
      showHealth({ status: "off", dependencies: {} });
    }
    askHealth.timer = setTimeout(askHealth, POLL);
  }
}

const words = { ok: "All well", degraded: "Degraded", unavailable: "Unavailable", off: "No answer" };

function showHealth(report) {
  const health = $("health");
  health.dataset.state = report.status;
  health.textContent = words[report.status] ?? report.status;
  $("parts").replaceChildren(...Object.entries(report.dependencies ?? {}).map(([part, d]) =>
    element("li", { "data-state": d.state, textContent: part, title: d.detail ?? "ok" },
      d.state === "ok" ? element("span", { class: "hidden", textContent: " ok" }) : `: ${plain(d.detail)}`)));
  const n = report.messages_accepted;
  const at = Date.parse(report.checked_at ?? "");
  const last = samples.at(-1);
  if (n === undefined || !(at > (last?.at ?? 0))) return;
  if (last && n < last.n) samples.length = 0; // another log
  samples.push({ at, n });
  if (samples.length > 4) samples.shift();
  $("total").textContent = `${number.format(n)} accepted in all`;
  const first = samples[0];
  if (samples.length < 2) return;
  const rate = (1000 * (n - first.n)) / (at - first.at);
  $("rate").textContent = rate >= 100 || rate === 0 ? number.format(Math.round(rate)) : rate.toFixed(1);
  rates.push((1000 * (n - last.n)) / (at - last.at));
  if (rates.length > 90) rates.shift();
  drawRates();
}

function drawRates() {
  const [width, height] = [300, 64];
  const top = Math.max(1, ...rates) * 1.1;
  const step = width / Math.max(29, rates.length - 1);
  const from = width - (rates.length - 1) * step;
  const points = rates.map((r, i) => `${(from + i * step).toFixed(1)},${(height - (r / top) * height).toFixed(1)}`);
  if (points.length < 2) return;
  $("spark").querySelector(".line").setAttribute("d", "M" + points.join("L"));
  $("spark").querySelector(".area").setAttribute("d", `M${from.toFixed(1)},${height}L${points.join("L")}L${width},${height}Z`);
}

// ---- start --------------------------------------------------------------------------------------------------------

// What was before: from ClickHouse, if it is there.
async function history(path, key, take) {
  try {
    const answer = await fetch(path);
    if (answer.ok) for (const item of (await answer.json())[key]) take(item);
  } catch {
    // the streams tell of what comes
  }
}

$("origin").textContent = location.origin;
drawAlerts();
askHealth();
new Stream("/api/v1/alerts/stream", (frame) => frame.alert && takeAlert(frame.alert, true));
new Stream("/api/v1/trends/stream", (frame) => frame.trend && takeTrend(frame.trend));
history("/api/v1/alerts?page_size=100", "alerts", (a) => takeAlert(a, false));
history("/api/v1/trends?page_size=200", "trends", takeTrend);
