// Shows times in the reader's zone, and moves what moves. Every page works without it.
"use strict";

const day = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" });
const otherYear = new Intl.DateTimeFormat(undefined, { year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" });
const whole = new Intl.DateTimeFormat(undefined, { year: "numeric", month: "short", day: "numeric" });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const seconds = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });

function localTimes(root) {
  for (const t of root.querySelectorAll("time[datetime]")) {
    const at = new Date(t.dateTime);
    const now = new Date();
    let format = otherYear;
    if ("day" in t.dataset) format = whole;
    else if (at.toDateString() === now.toDateString()) format = clock;
    else if (at.getFullYear() === now.getFullYear()) format = day;
    t.textContent = format.format(at);
  }
  for (const mark of root.querySelectorAll("[data-hour]")) {
    mark.textContent = clock.format(new Date(mark.dataset.hour * 1000));
  }
}

// element makes an element with a text; what peers say is only ever a text.
function element(tag, className, text) {
  const e = document.createElement(tag);
  if (className) e.className = className;
  if (text !== undefined) e.textContent = text;
  return e;
}

function row(event) {
  const li = element("li", event.tone);
  const time = element("time", "", seconds.format(new Date(event.time)));
  time.dateTime = time.title = event.time;
  li.append(time, element("span", "state " + event.tone, event.event));
  if (event.path) {
    const a = element("a", "mono", event.prefix);
    a.href = event.path;
    li.append(a);
  }
  const by = event.prefix && event.origin ? "by " + event.origin : event.origin;
  li.append(element("span", "dim", by + (event.source ? ", " + event.source : "")));
  if (event.reason) li.append(element("q", "reason", event.reason));
  if (event.ms !== undefined) li.append(element("span", "num", event.ms.toFixed(1) + " ms"));
  return li;
}

// pulse shows a ban's way through the picture of the mesh.
function pulse(event) {
  for (const e of document.querySelectorAll("[data-link],[data-node]")) {
    if (e.dataset.link !== event.id && e.dataset.node !== event.id) continue;
    e.classList.remove("pulse");
    e.getBoundingClientRect(); // starts the animation anew
    e.classList.add("pulse");
  }
}

function follow(lists) {
  const source = new EventSource("/ui/live");
  source.onmessage = (message) => {
    const { events, left } = JSON.parse(message.data);
    for (const list of lists) {
      list.querySelector(".empty")?.remove();
      for (const event of events) list.prepend(row(event));
      if (left > 0) list.prepend(element("li", "dim", "and " + left.toLocaleString() + " more at that moment"));
      while (list.children.length > Number(list.dataset.most)) list.lastElementChild.remove();
    }
    events.forEach(pulse);
    if (events.some((event) => event.event === "ban") && document.querySelector('[data-fresh="mesh"]')) soon();
  };
  source.onopen = () => document.body.classList.remove("lost");
  source.onerror = () => {
    document.body.classList.add("lost");
    // After a failed connection it tries again by itself, after an error of the server it does not.
    if (source.readyState === EventSource.CLOSED) setTimeout(() => follow(lists), 5000);
  };
}

// refresh replaces the parts of the page that have new numbers, unless somebody is in them.
async function refresh() {
  const parts = [...document.querySelectorAll("[data-fresh]")];
  if (document.hidden || parts.length === 0) return;
  const answer = await fetch(location.pathname, { credentials: "same-origin" }).catch(() => null);
  if (!answer || !answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of parts) {
    const fresh = page.querySelector(`[data-fresh="${part.dataset.fresh}"]`);
    if (!fresh || part.contains(document.activeElement) || String(getSelection()) !== "") continue;
    localTimes(fresh);
    part.replaceWith(fresh);
  }
}

// soon refreshes when the other nodes have had time to take a ban, and not often.
let due = false;
function soon() {
  if (due) return;
  due = true;
  setTimeout(() => { due = false; refresh(); }, 3000);
}

localTimes(document);
const lists = document.querySelectorAll("[data-tail]");
if (lists.length > 0) follow(lists);
if (document.querySelector("[data-fresh]")) setInterval(refresh, 15000);

document.addEventListener("submit", (event) => {
  const text = event.target.dataset.busy;
  if (!text) return;
  const button = event.target.querySelector("button");
  button.setAttribute("aria-busy", "true");
  event.target.append(element("span", "dim", text));
  setTimeout(() => (button.disabled = true)); // after the form is sent
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input,select,textarea")) return;
  event.preventDefault();
  document.getElementById("find").focus();
});
