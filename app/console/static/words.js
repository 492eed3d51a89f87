/** Every word of the page in English and Korean, and how times and durations are written. */

const WORDS = {
  "title": ["Aura console", "Aura 콘솔"],
  "console": ["console", "콘솔"],
  "skip": ["Skip to the prompt", "프롬프트로 건너뛰기"],
  "language": ["한국어", "English"],
  "language.label": ["Switch to Korean", "영어로 전환"],
  "theme.label": ["Light or dark", "밝게 또는 어둡게"],
  "leave": ["Sign out", "나가기"],
  "who": ["{user} · {tenant}", "{user} · {tenant}"],

  "enter.title": ["Sign in with a token", "토큰으로 로그인"],
  "enter.words": ["The console speaks the public API with the token you give it. It stays in this page's memory: closing or reloading the page forgets it.", "콘솔은 입력한 토큰으로 공개 API를 사용합니다. 토큰은 이 페이지의 메모리에만 있으며, 페이지를 닫거나 새로 고치면 사라집니다."],
  "enter.token": ["Token (JWT)", "토큰 (JWT)"],
  "enter.go": ["Connect", "연결"],
  "enter.how": ["Make one with", "토큰 만들기:"],
  "enter.bad": ["That is not a JWT with sub and tenant_id.", "sub와 tenant_id가 있는 JWT가 아닙니다."],
  "enter.code": ["This one-time link was used already or has expired. Take a new one from the terminal, or paste a token.", "이 일회용 링크는 이미 사용되었거나 만료되었습니다. 터미널에서 새 링크를 가져오거나 토큰을 붙여 넣으세요."],
  "enter.expired": ["The token is no longer accepted: {cause}", "토큰이 더 이상 유효하지 않습니다: {cause}"],

  "link.idle": ["Ready", "준비됨"],
  "link.connecting": ["Connecting", "연결 중"],
  "link.live": ["Live", "실시간 연결"],
  "link.broken": ["Reconnecting…", "다시 연결하는 중…"],
  "link.over": ["Ready", "준비됨"],
  "link.lost": ["Connection lost", "연결이 끊어졌습니다"],
  "link.away": ["Service unreachable", "서비스에 연결할 수 없음"],
  "link.retry": ["Try again", "다시 시도"],

  "view.lists": ["Runs", "실행 목록"],
  "view.run": ["Run", "실행"],
  "view.machine": ["Machine", "상태 머신"],
  "views": ["Views", "보기"],

  "inbox": ["Approvals", "승인 대기"],
  "inbox.none": ["Nothing waits for a decision.", "결정을 기다리는 요청이 없습니다."],
  "inbox.queued": ["+{count} after it", "이후 {count}건"],
  "runs": ["Runs", "실행 목록"],
  "runs.none": ["No runs yet.", "아직 실행이 없습니다."],
  "runs.more": ["Show more", "더 보기"],
  "runs.new": ["New run", "새 실행"],

  "prompt": ["Prompt", "프롬프트"],
  "prompt.hint": ["What should Aura do?", "무엇을 도와드릴까요?"],
  "prompt.send": ["Run", "실행"],
  "prompt.keys": ["Ctrl + Enter", "Ctrl + Enter"],
  "prompt.follow": ["Follow up in this thread", "이 대화에 이어서"],
  "context": ["Screen context", "화면 컨텍스트"],
  "context.words": ["A JSON object: what the person sees. It is data, never instructions.", "JSON 객체: 사용자가 보고 있는 화면입니다. 지시가 아닌 데이터로만 쓰입니다."],
  "context.bad": ["This is not a JSON object: {cause}", "JSON 객체가 아닙니다: {cause}"],
  "empty.title": ["Start a run, or open one", "실행을 시작하거나 선택하세요"],
  "empty.words": ["Every event of a run arrives here as it is committed. The machine beside it shows where the run stands.", "실행의 모든 이벤트가 기록되는 즉시 여기에 표시되고, 옆의 상태 머신이 현재 위치를 보여 줍니다."],

  "run.cancel": ["Cancel run", "실행 취소"],
  "run.cancelling": ["Cancelling…", "취소하는 중…"],
  "run.label": ["Run", "실행"],
  "run.activity": ["Activity", "진행 내용"],
  "run.refused": ["Refused: {cause}", "거부됨: {cause}"],
  "run.usage": ["{tokens} tokens", "{tokens} 토큰"],
  "plan": ["Plan", "계획"],
  "plan.sure": ["{percent} sure", "확신도 {percent}"],
  "answer": ["Answer", "답변"],
  "answer.ready": ["The answer is complete.", "답변이 완성되었습니다."],
  "thought.analysis": ["Analysis", "분석"],
  "thought.planning": ["Planning", "계획"],
  "thought.reasoning": ["Reasoning", "추론"],
  "thought.decision": ["Decision", "결정"],
  "thought.reflection": ["Reflection", "성찰"],
  "thought.sources": ["Sources", "출처"],
  "tool.pending": ["asked for", "요청됨"],
  "tool.executing": ["running", "실행 중"],
  "tool.completed": ["completed", "완료"],
  "tool.failed": ["failed", "실패"],
  "tool.rejected": ["not run", "실행 안 함"],
  "tool.args": ["Arguments", "인자"],
  "tool.result": ["Result", "결과"],
  "tool.error": ["Error", "오류"],
  "tool.shortened": ["Shortened to fit the stream.", "스트림에 맞게 줄였습니다."],
  "tool.whole": ["Show it whole", "전체 보기"],
  "none": ["none", "없음"],

  "approval": ["Approval needed", "승인이 필요합니다"],
  "approval.said": ["Approval needed: {message}", "승인이 필요합니다: {message}"],
  "approval.args": ["Exactly these arguments will run", "정확히 이 인자로 실행됩니다"],
  "approval.left": ["{time} left", "{time} 남음"],
  "approval.late": ["time is up", "시간 초과"],
  "approval.unknown": ["The service stopped while this was running, so it may already have happened once. Approving may do it a second time: check first.", "실행 도중 서비스가 중단되어 이 작업이 이미 한 번 수행되었을 수 있습니다. 승인하면 두 번 수행될 수 있으니 먼저 확인하세요."],
  "approval.yes": ["Approve", "승인"],
  "approval.edit": ["Edit", "수정"],
  "approval.no": ["Reject", "거절"],
  "approval.editor": ["Arguments as JSON", "인자 (JSON)"],
  "approval.edited": ["Approve these", "수정한 내용으로 승인"],
  "approval.reason": ["Reason", "사유"],
  "approval.skip": ["Go on without this step", "이 단계 없이 계속 진행"],
  "approval.reject": ["Reject", "거절"],
  "approval.back": ["Back", "뒤로"],
  "approval.sending": ["Sending…", "보내는 중…"],
  "approval.earlier": ["It had been decided already: {status}.", "이미 결정된 요청입니다: {status}."],
  "approval.asked": ["the arguments as asked", "요청된 인자"],
  "verdict.approved": ["Approved", "승인됨"],
  "verdict.skipped": ["Declined; the run went on without it", "거절됨 · 이 단계 없이 계속"],
  "verdict.rejected": ["Rejected", "거절됨"],
  "verdict.expired": ["Nobody decided in time", "시간 내에 결정되지 않음"],
  "verdict.cancelled": ["Withdrawn: the run ended", "철회됨: 실행이 종료됨"],
  "verdict.edited": ["arguments edited", "인자 수정됨"],
  "verdict.by": ["by {who}", "{who}"],

  "machine": ["Machine", "상태 머신"],
  "machine.label": ["The state machine. Transitions that were taken can be focused.", "상태 머신. 지나온 전이에 초점을 둘 수 있습니다."],
  "machine.away": ["The diagram could not be loaded: {cause}", "다이어그램을 불러오지 못했습니다: {cause}"],
  "machine.said": ["State: {state}", "상태: {state}"],
  "machine.never": ["not taken in this run", "이 실행에서 지나가지 않음"],
  "why.request_tools": ["The model asked for tools", "모델이 도구를 요청함"],
  "why.report_results": ["Every call has its outcome", "모든 호출의 결과가 나옴"],
  "why.answer": ["The model began to answer", "모델이 답변을 시작함"],
  "why.finish": ["The answer is whole", "답변이 완성됨"],
  "why.ask_approval": ["A call needs a person's approval", "호출에 사람의 승인이 필요함"],
  "why.approve": ["A person approved", "사람이 승인함"],
  "why.decline": ["A person said no; the run goes on without the call", "사람이 거절함, 이 호출 없이 계속"],
  "why.reject": ["A person rejected", "사람이 거절함"],
  "why.expire": ["Nobody decided in time", "시간 내에 결정되지 않음"],
  "why.fail": ["Something failed", "오류 발생"],
  "why.cancel": ["Stopped on request", "요청으로 중단됨"],

  "timeline": ["Timeline", "타임라인"],
  "timeline.none": ["Where the time of a run went.", "실행 시간이 어디에 쓰였는지 표시됩니다."],
  "timeline.total": ["{waited} of {total} waiting for people", "총 {total} 중 사람을 기다린 시간 {waited}"],
  "timeline.states": ["states", "상태"],
  "timeline.turn": ["model turn {turn}", "모델 호출 {turn}"],
  "timeline.again": ["model turn {turn}, try {attempt}", "모델 호출 {turn}, {attempt}번째 시도"],
  "timeline.wait": ["a person's decision", "사람의 결정"],
  "timeline.open": ["so far", "진행 중"],

  "state.planning": ["planning", "계획 수립"],
  "state.tool": ["tool", "도구 실행"],
  "state.awaiting_approval": ["awaiting approval", "승인 대기"],
  "state.content": ["answering", "답변 작성"],
  "state.done": ["done", "완료"],
  "state.failed": ["failed", "실패"],
  "state.rejected": ["rejected", "거절됨"],
  "state.timed_out": ["timed out", "시간 초과"],
  "state.cancelled": ["cancelled", "취소됨"],
  "ago": ["{time} ago", "{time} 전"],
  "now": ["now", "방금"],
};

let column = 0;

export const language = () => (column === 0 ? "en" : "ko");

export function speak(code) {
  column = code === "ko" ? 1 : 0;
}

/** The words for `key`, `{names}` filled in; a key that is unknown stands for itself (a state of a newer service). */
export function t(key, values = {}) {
  const words = WORDS[key]?.[column] ?? key.slice(key.indexOf(".") + 1);
  return words.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}

/** Put the words into what `data-t…` marks below `root`. */
export function translate(root) {
  for (const element of root.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
  for (const element of root.querySelectorAll("[data-t-label]")) element.setAttribute("aria-label", t(element.dataset.tLabel));
  for (const element of root.querySelectorAll("[data-t-hint]")) element.placeholder = t(element.dataset.tHint);
}

/** `14:03:02`. */
export function clockTime(ms) {
  return new Date(ms).toLocaleTimeString("en-GB", { hour12: false });
}

/** `40 ms`, `0.4 s`, `2 m 05 s`, `1 h 02 m`: the same in both languages. */
export function duration(ms) {
  const seconds = Math.max(0, ms) / 1000;
  if (seconds < 0.1) return `${Math.round(ms)} ms`;
  if (seconds < 59.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const two = (number) => String(number).padStart(2, "0");
  if (whole < 3600) return `${Math.floor(whole / 60)} m ${two(whole % 60)} s`;
  return `${Math.floor(whole / 3600)} h ${two(Math.floor((whole % 3600) / 60))} m`;
}

/** `4:59`, for what counts down. */
export function countdown(ms) {
  const seconds = Math.max(0, Math.ceil(ms / 1000));
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}

/** `5 m`, `2 h`, `3 d`; null within the last minute. */
export function age(ms) {
  const minutes = Math.floor(ms / 60_000);
  if (minutes < 1) return null;
  if (minutes < 60) return `${minutes} m`;
  return minutes < 24 * 60 ? `${Math.floor(minutes / 60)} h` : `${Math.floor(minutes / 1440)} d`;
}
