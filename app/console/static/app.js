/** The page: signing in, language, light and dark, which view a phone shows, the connection, and what is said aloud. */

import { Service, redeemed } from "./api.js";
import { parsed } from "./approval.js";
import { Desk } from "./desk.js";
import { find, h } from "./dom.js";
import { isOver } from "./reduce.js";
import { language, speak, t, translate } from "./words.js";

/** What the demo's script answers. */
const SUGGESTIONS = [
  ["메일을 보내주세요"],
  ["GitHub PR을 생성해주세요"],
  ["GitHub PR을 분석해주세요"],
  ["선택한 항목들을 분석해주세요", { activeApp: "mail", path: "/mail", selectedItemIds: [11, "msg-7"] }],
  ["지금 몇 시예요?"],
];
const SCRIPTED = "aura-scripted";

let desk = null;
let service = null;
let link = { kind: "idle", words: "", isAway: false };

const page = {
  connection(kind, words = "") {
    link = { ...link, kind, words };
    showLink();
  },
  away(isAway) {
    if (isAway !== link.isAway) link = { ...link, isAway };
    showLink();
  },
  say(words, isUrgent = false) {
    find(isUrgent ? "said-now" : "said").textContent = words;
  },
  refused(error) {
    leave(t("enter.expired", { cause: error.message }));
  },
  opened(sessionId) {
    history.replaceState(null, "", `#run=${encodeURIComponent(sessionId)}`);
  },
  /** The service would not start it: the prompt is not lost. */
  returned(prompt) {
    find("prompt").value ||= prompt;
  },
  show,
  rendered(run) {
    find("follow-label").hidden = !(isOver(run) && run.threadId);
    find("run-new").hidden = run.sessionId === null;
  },
};

function showLink() {
  const isFollowing = ["connecting", "live", "broken", "lost"].includes(link.kind);
  const kind = link.isAway && !isFollowing ? "away" : link.kind;
  const chip = find("link");
  chip.dataset.kind = kind;
  chip.title = link.words;
  find("retry").hidden = link.kind !== "lost";
  const words = t(`link.${kind}`);
  if (find("link-words").textContent !== words) find("link-words").textContent = words;
}

function show(view) {
  document.body.dataset.view = view;
  for (const button of find("views").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button.dataset.view === view));
  }
}

// --- signing in

async function enter(token) {
  try {
    service = new Service(token.trim());
  } catch {
    return complain(t("enter.bad"));
  }
  try {
    await service.glimpse.runs({ limit: 1 });
  } catch (error) {
    return complain(error.message);
  }
  find("token").value = "";
  find("enter").hidden = true;
  find("desk").hidden = find("signed-in").hidden = find("views").hidden = find("link").hidden = false;
  desk = new Desk(service, page);
  translateAll();
  suggest();
  const asked = /^#run=(.+)$/.exec(location.hash);
  if (asked) desk.open(decodeURIComponent(asked[1]));
  find("prompt").focus();
}

function leave(words = "") {
  desk?.close();
  desk = service = null;
  find("enter").hidden = false;
  find("desk").hidden = find("signed-in").hidden = find("views").hidden = find("link").hidden = true;
  complain(words);
  find("token").focus();
}

function complain(words) {
  find("enter-complaint").textContent = words;
}

async function suggest() {
  const about = await service.glimpse.info().catch(() => null);
  const prompts = about?.model === SCRIPTED ? SUGGESTIONS : [];
  const chosen = (prompt, context) => {
    if (context) find("context").value = JSON.stringify(context);
    start(prompt);
  };
  const buttons = prompts.map(([prompt, context]) => h("button", { type: "button", onclick: () => chosen(prompt, context) }, prompt));
  find("suggestions").replaceChildren(...buttons.map((button) => h("li", {}, button)));
}

// --- starting runs

function start(prompt) {
  const context = parsed(find("context").value.trim() || "{}");
  const isBad = context instanceof Error;
  find("context").setAttribute("aria-invalid", String(isBad));
  find("context-complaint").textContent = isBad ? t("context.bad", { cause: context.message }) : "";
  if (isBad) {
    find("context-box").open = true;
    find("context").focus();
    return;
  }
  if (!prompt.trim()) {
    find("prompt").focus();
    return;
  }
  const follows = find("follow").checked && !find("follow-label").hidden;
  const threadId = follows ? desk.run.threadId : undefined;
  desk.start(prompt, context, threadId);
  find("prompt").value = "";
  show("run");
}

function fresh() {
  desk.leaveRun();
  desk.soon();
  history.replaceState(null, "", location.pathname);
  show("run");
  find("prompt").focus();
}

// --- language, light and dark

function translateAll() {
  document.documentElement.lang = language();
  translate(document);
  document.title = t("title");
  find("language").lang = language() === "ko" ? "en" : "ko";
  if (service) find("who").textContent = t("who", { user: service.claims.sub, tenant: service.claims.tenant_id });
  showLink();
  desk?.redraw();
}

function turnTheme() {
  const isDark = document.documentElement.dataset.theme === "dark" || (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = isDark ? "light" : "dark";
}

function listen() {
  find("enter-form").addEventListener("submit", (event) => {
    event.preventDefault();
    enter(find("token").value);
  });
  find("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    start(find("prompt").value);
  });
  find("composer").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) start(find("prompt").value);
  });
  find("leave").addEventListener("click", () => {
    history.replaceState(null, "", location.pathname); // whoever comes next did not open this run
    leave();
  });
  find("retry").addEventListener("click", () => desk.retry());
  find("run-new").addEventListener("click", fresh);
  find("runs-more").addEventListener("click", () => desk.more());
  find("theme").addEventListener("click", turnTheme);
  find("language").addEventListener("click", () => {
    speak(language() === "ko" ? "en" : "ko");
    translateAll();
  });
  for (const button of find("views").querySelectorAll("button")) button.addEventListener("click", () => show(button.dataset.view));
  addEventListener("hashchange", () => {
    const asked = /^#run=(.+)$/.exec(location.hash);
    if (asked && desk) desk.open(decodeURIComponent(asked[1]));
  });
}

async function begin() {
  speak(navigator.language.startsWith("ko") ? "ko" : "en");
  translateAll();
  listen();
  show("run");
  find("page").hidden = false;
  const code = /^#code=(.+)$/.exec(location.hash)?.[1];
  if (!code) return find("token").focus();
  history.replaceState(null, "", location.pathname); // a code that was used shall not be bookmarked
  const token = await redeemed(decodeURIComponent(code)).catch(() => null);
  if (token) await enter(token);
  else complain(t("enter.code"));
}

begin();
