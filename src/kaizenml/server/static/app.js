// What the console does beyond plain pages: it looks again by itself, and asks for confirmation in place.
// Without it every page still works: links lead to pages, buttons send forms.

const every = 2500;
const pulse = document.getElementById("pulse");
const words = pulse?.textContent ?? "";
let etag = "";
let timer = 0;

// --- live: fetch this page again and put the parts that changed in place

async function look() {
  try {
    const response = await fetch(location.href, { headers: etag ? { "If-None-Match": etag } : {}, redirect: "manual" });
    if (response.type === "opaqueredirect") return location.reload(); // the session ended: the server wants a login
    if (response.status === 200) {
      etag = response.headers.get("ETag") ?? "";
      renew(new DOMParser().parseFromString(await response.text(), "text/html"));
    }
    tell(words, false);
  } catch {
    tell("not connected; trying again", true);
  }
}

function renew(fresh) {
  for (const part of document.querySelectorAll("[data-live]")) {
    const other = fresh.getElementById(part.id);
    if (!other || other.innerHTML === part.innerHTML) continue;
    if (busy(part)) continue;
    const open = new Set([...part.querySelectorAll("details[open]")].map((each) => each.id));
    const focus = part.contains(document.activeElement) ? document.activeElement.id : "";
    part.replaceChildren(...[...other.childNodes].map((node) => document.adoptNode(node)));
    for (const id of open) if (id) document.getElementById(id)?.setAttribute("open", "");
    if (focus) document.getElementById(focus)?.focus();
    part.classList.remove("fresh");
    if (part.dataset.live === "tell") requestAnimationFrame(() => part.classList.add("fresh"));
  }
  document.title = fresh.title;
}

// a part that is being written in, or pointed at in a chart, keeps still
function busy(part) {
  const inside = document.activeElement;
  if (part.contains(inside) && /^(INPUT|SELECT|TEXTAREA)$/.test(inside.tagName)) return true;
  return part.querySelector("svg:hover") !== null;
}

function tell(text, lost) {
  if (!pulse) return;
  if (pulse.textContent !== text) pulse.textContent = text;
  pulse.classList.toggle("lost", lost);
}

function schedule() {
  clearInterval(timer);
  if (!document.hidden && document.querySelector("[data-live]")) timer = setInterval(look, every);
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) look();
  schedule();
});
schedule();

// --- confirm: show the confirmation page's form in a dialog

document.addEventListener("click", async (event) => {
  const link = event.target.closest?.("a[data-confirm]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return;
  event.preventDefault();
  try {
    const response = await fetch(link.href);
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const form = page.querySelector(".confirm");
    if (!form) throw new Error("no form");
    ask(document.adoptNode(form), link);
  } catch {
    location.assign(link.href);
  }
});

function ask(form, link) {
  const dialog = document.createElement("dialog");
  dialog.append(form);
  const heading = form.querySelector("h1");
  if (heading) {
    const smaller = document.createElement("h2");
    smaller.id = "dialog-heading";
    smaller.append(...heading.childNodes);
    heading.replaceWith(smaller);
    dialog.setAttribute("aria-labelledby", "dialog-heading");
  }
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog || event.target.closest?.("a[data-cancel]")) {
      event.preventDefault();
      dialog.close();
    }
  });
  dialog.addEventListener("close", () => {
    dialog.remove();
    link.focus();
  });
  // one click, one change
  dialog.addEventListener("submit", () => {
    for (const button of dialog.querySelectorAll("button")) setTimeout(() => (button.disabled = true));
  });
  document.body.append(dialog);
  dialog.showModal();
  dialog.querySelector("input:not([type=hidden]), select, textarea, button")?.focus();
}
