// The conversation of chat.html: one socket, the session and the last position kept in this tab, so that a reload or a broken
// connection loses nothing. A question that was not confirmed is sent again under its own id, and is answered once.
"use strict";

const element = (id) => document.getElementById(id);
const KEPT = "bulkhead.chat";
const RETRY_MS = [500, 1000, 2000, 5000, 10000];

// {session, epoch, offset, turns: [{id, text, jobId, state, answer, about}]}
let kept = { turns: [] };
try {
  kept = JSON.parse(sessionStorage.getItem(KEPT)) || kept;
} catch {
  // What cannot be read is begun anew.
}
const keep = () => sessionStorage.setItem(KEPT, JSON.stringify(kept));
const words = new Map(); // jobId → {attempt, parts}
let socket = null;
let failures = 0;

function show() {
  const list = element("talk");
  list.replaceChildren(...kept.turns.map((turn) => {
    const item = element("turn").content.firstElementChild.cloneNode(true);
    item.classList.add(turn.state);
    item.querySelector(".query").textContent = turn.text;
    const said = words.get(turn.jobId);
    item.querySelector(".answer").textContent = turn.answer || (said && said.parts.join("")) || "…";
    item.querySelector(".about").textContent = turn.about || "";
    return item;
  }));
  element("none").hidden = kept.turns.length > 0;
  keep();
  list.lastElementChild?.scrollIntoView({ block: "end" });
}

const notice = (text) => { element("notice").textContent = text; };
const ask = (turn) => socket.send(JSON.stringify({ type: "query", text: turn.text, id: turn.id }));
const byJob = (jobId) => kept.turns.find((turn) => turn.jobId === jobId);

function about(result) {
  const sources = (result.sources || []).join(", ");
  const by = result.extractive ? "from the documents, without a model" : `by ${result.model}`;
  return (sources ? `${by} · ${sources}` : by) + (result.truncated ? " · cut off" : "");
}

const heard = {
  session(message) {
    kept.session = message.session;
    if (kept.epoch && !message.recovered) {
      notice("Some answers may have been missed while this page was away.");
    }
    element("state").textContent = "Connected";
    failures = 0;
    kept.turns.filter((turn) => turn.state === "sending").forEach(ask);
  },
  accepted(message) {
    const turn = kept.turns.find((turn) => turn.id === message.id);
    if (turn && turn.state === "sending") {
      turn.jobId = message.jobId;
      turn.state = "waiting";
    }
  },
  token(message) {
    const turn = byJob(message.jobId);
    if (!turn || turn.state !== "waiting") return;
    let said = words.get(message.jobId);
    if (!said || message.attempt > said.attempt) {
      said = { attempt: message.attempt, parts: [] };
      words.set(message.jobId, said);
    }
    if (message.attempt === said.attempt) said.parts[message.index] = message.text;
  },
  completed(message) {
    const turn = byJob(message.jobId);
    if (!turn) return;
    Object.assign(turn, { state: "completed", answer: message.result.answer, about: about(message.result) });
    words.delete(message.jobId);
  },
  failed(message) {
    const turn = byJob(message.jobId);
    if (!turn) return;
    Object.assign(turn, { state: "failed", answer: message.error.message, about: message.error.code });
    words.delete(message.jobId);
  },
  error(message) {
    const turn = kept.turns.find((turn) => turn.id === message.id && turn.state === "sending");
    if (!turn) return notice(message.detail);
    if (message.retryAfterMs) {
      notice(message.detail);
      setTimeout(() => { if (turn.state === "sending" && socket?.readyState === WebSocket.OPEN) ask(turn); }, message.retryAfterMs);
    } else {
      Object.assign(turn, { state: "failed", answer: message.detail, about: message.code });
    }
  },
};

function connect() {
  const query = new URLSearchParams();
  for (const name of ["session", "epoch", "offset"]) if (kept[name]) query.set(name, kept[name]);
  const url = new URL("ws/chat", document.baseURI);
  url.protocol = url.protocol.replace("http", "ws");
  url.search = query;
  const mine = new WebSocket(url);
  socket = mine;
  let opened = false;
  mine.onmessage = (event) => {
    opened = true;
    const message = JSON.parse(event.data);
    heard[message.type]?.(message);
    if (message.epoch) Object.assign(kept, { epoch: message.epoch, offset: message.offset });
    show();
  };
  mine.onclose = () => {
    if (socket !== mine) return;
    element("state").textContent = "Connecting…";
    // A token that is not taken any more would be refused for ever.
    if (!opened && failures >= 3 && kept.session) kept = { turns: kept.turns.filter((turn) => turn.state !== "waiting") };
    setTimeout(connect, RETRY_MS[Math.min(failures, RETRY_MS.length - 1)]);
    failures += 1;
  };
}

element("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = element("text").value.trim();
  if (!text) return;
  const turn = { id: crypto.randomUUID ? crypto.randomUUID() : String(Math.random()).slice(2), text, state: "sending" };
  kept.turns.push(turn);
  element("text").value = "";
  notice("");
  show();
  if (socket?.readyState === WebSocket.OPEN) ask(turn);
});
element("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    element("form").requestSubmit();
  }
});
element("fresh").addEventListener("click", () => {
  kept = { turns: [] };
  words.clear();
  notice("");
  const old = socket;
  socket = null;
  old?.close();
  show();
  connect();
});
show();
connect();
