/** The page around the run: sign-in, language, colour scheme, views on small screens, connection, announcements. */

import { Service, exchangeCode } from "./api.js";
import { Controller } from "./controller.js";
import { find, h } from "./dom.js";
import { parseJsonObject } from "./json.js";
import { isEnded } from "./run_state.js";
import { language, setLanguage, t, translate } from "./translations.js";

/** Prompts that the demo's scripted model answers. */
const SUGGESTIONS = [
  ["메일을 보내주세요"],
  ["GitHub PR을 생성해주세요"],
  ["GitHub PR을 분석해주세요"],
  ["선택한 항목들을 분석해주세요", { activeApp: "mail", path: "/mail", selectedItemIds: [11, "msg-7"] }],
  ["지금 몇 시예요?"],
];
const SCRIPTED_MODEL = "aura-scripted";
/** Kinds of connection that are shown even while the service is unavailable. */
const STREAM_KINDS = ["connecting", "live", "broken", "lost"];

let controller = null;
let service = null;
let connection = { kind: "idle", cause: "", isAvailable: true };

const page = {
  showConnection(kind, cause = "") {
    connection = { ...connection, kind, cause };
    renderConnection();
  },
  showAvailability(isAvailable) {
    connection = { ...connection, isAvailable };
    renderConnection();
  },
  announce(text, isUrgent = false) {
    find(isUrgent ? "alert" : "announcement").textContent = text;
  },
  onTokenRejected(error) {
    signOut(t("sign_in.rejected", { cause: error.message }));
  },
  onRunOpened(sessionId) {
    history.replaceState(null, "", `#run=${encodeURIComponent(sessionId)}`);
  },
  /** Put the prompt back into its field, so that it is not lost. */
  onPromptRejected(prompt) {
    find("prompt").value ||= prompt;
  },
  showView,
  onRendered(run) {
    find("follow-up-label").hidden = !(isEnded(run) && run.threadId);
    find("run-new").hidden = run.sessionId === null;
  },
};

function renderConnection() {
  const kind = connection.isAvailable || STREAM_KINDS.includes(connection.kind) ? connection.kind : "unavailable";
  const chip = find("connection");
  chip.dataset.kind = kind;
  chip.title = connection.cause;
  find("retry").hidden = connection.kind !== "lost";
  const text = t(`connection.${kind}`);
  if (find("connection-text").textContent !== text) find("connection-text").textContent = text; // announced once
}

function showView(view) {
  document.body.dataset.view = view;
  for (const button of find("views").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button.dataset.view === view));
  }
}

// --- signing in

async function signIn(token) {
  try {
    service = new Service(token.trim());
  } catch {
    return showSignInError(t("sign_in.invalid"));
  }
  try {
    await service.singleTryClient.runs({ limit: 1 });
  } catch (error) {
    return showSignInError(error.message);
  }
  find("token").value = "";
  showSignedIn(true);
  controller = new Controller(service, page);
  translateAll();
  showSuggestions();
  openRunOfAddress();
  find("prompt").focus();
}

function signOut(errorText = "") {
  controller?.close();
  controller = service = null;
  showSignedIn(false);
  showSignInError(errorText);
  find("token").focus();
}

function showSignedIn(isSignedIn) {
  find("sign-in").hidden = isSignedIn;
  for (const id of ["workspace", "signed-in", "views", "connection"]) find(id).hidden = !isSignedIn;
}

function showSignInError(text) {
  find("sign-in-error").textContent = text;
}

/** Open the run that the address names, if it names one. */
function openRunOfAddress() {
  const match = /^#run=(.+)$/.exec(location.hash);
  if (match) controller?.open(decodeURIComponent(match[1]));
}

/** Show the prompts of the demo where its scripted model is used. */
async function showSuggestions() {
  const info = await service.singleTryClient.info().catch(() => null);
  const suggestions = info?.model === SCRIPTED_MODEL ? SUGGESTIONS : [];
  const startSuggestion = (prompt, context) => {
    if (context) find("context").value = JSON.stringify(context);
    start(prompt);
  };
  const buttons = suggestions.map(([prompt, context]) => h("button", { type: "button", onclick: () => startSuggestion(prompt, context) }, prompt));
  find("suggestions").replaceChildren(...buttons.map((button) => h("li", {}, button)));
}

// --- starting runs

function start(prompt) {
  const context = parseJsonObject(find("context").value.trim() || "{}");
  const isInvalid = context instanceof Error;
  find("context").setAttribute("aria-invalid", String(isInvalid));
  find("context-error").textContent = isInvalid ? t("context.invalid", { cause: context.message }) : "";
  if (isInvalid) {
    find("context-details").open = true;
    find("context").focus();
    return;
  }
  if (!prompt.trim()) {
    find("prompt").focus();
    return;
  }
  const isFollowUp = find("follow-up").checked && !find("follow-up-label").hidden;
  const threadId = isFollowUp ? controller.run.threadId : undefined;
  controller.start(prompt, context, threadId);
  find("prompt").value = "";
  showView("run");
}

function showEmptyRun() {
  controller.closeRun();
  controller.scheduleRender();
  history.replaceState(null, "", location.pathname);
  showView("run");
  find("prompt").focus();
}

// --- language and colour scheme

function translateAll() {
  document.documentElement.lang = language();
  translate(document);
  document.title = t("title");
  find("language").lang = language() === "ko" ? "en" : "ko";
  if (service) find("user").textContent = t("user", { user: service.claims.sub, tenant: service.claims.tenant_id });
  renderConnection();
  controller?.renderAgain();
}

function toggleTheme() {
  const { theme } = document.documentElement.dataset;
  const isDark = theme === "dark" || (!theme && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = isDark ? "light" : "dark";
}

function addListeners() {
  find("sign-in-form").addEventListener("submit", (event) => {
    event.preventDefault();
    signIn(find("token").value);
  });
  find("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    start(find("prompt").value);
  });
  find("composer").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) start(find("prompt").value);
  });
  find("sign-out").addEventListener("click", () => {
    history.replaceState(null, "", location.pathname); // the next user shall not open this run
    signOut();
  });
  find("retry").addEventListener("click", () => controller.reconnect());
  find("run-new").addEventListener("click", showEmptyRun);
  find("runs-more").addEventListener("click", () => controller.lists.showMoreRuns());
  find("theme").addEventListener("click", toggleTheme);
  find("language").addEventListener("click", () => {
    setLanguage(language() === "ko" ? "en" : "ko");
    translateAll();
  });
  for (const button of find("views").querySelectorAll("button")) button.addEventListener("click", () => showView(button.dataset.view));
  addEventListener("hashchange", openRunOfAddress);
}

async function initialize() {
  setLanguage(navigator.language.startsWith("ko") ? "ko" : "en");
  translateAll();
  addListeners();
  showView("run");
  find("page").hidden = false;
  const code = /^#code=(.+)$/.exec(location.hash)?.[1];
  if (!code) return find("token").focus();
  history.replaceState(null, "", location.pathname); // a used code must not be bookmarked
  const token = await exchangeCode(decodeURIComponent(code)).catch(() => null);
  if (token) await signIn(token);
  else showSignInError(t("sign_in.code_invalid"));
}

initialize();
