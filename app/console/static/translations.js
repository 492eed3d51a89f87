/** All texts of the page in English and Korean. */

const TEXTS = {
  "title": ["Aura console", "Aura 콘솔"],
  "console": ["console", "콘솔"],
  "skip": ["Skip to the prompt", "프롬프트로 건너뛰기"],
  "language": ["한국어", "English"],
  "language.label": ["Switch to Korean", "영어로 전환"],
  "theme.label": ["Light or dark", "밝게 또는 어둡게"],
  "sign_out": ["Sign out", "나가기"],
  "user": ["{user} · {tenant}", "{user} · {tenant}"],

  "sign_in.title": ["Sign in with a token", "토큰으로 로그인"],
  "sign_in.help": ["The console uses the public API with your token. The token is kept in the memory of this page only: closing or reloading the page deletes it.", "콘솔은 입력한 토큰으로 공개 API를 사용합니다. 토큰은 이 페이지의 메모리에만 있으며, 페이지를 닫거나 새로 고치면 사라집니다."],
  "sign_in.token": ["Token (JWT)", "토큰 (JWT)"],
  "sign_in.submit": ["Connect", "연결"],
  "sign_in.command": ["Create a token with", "토큰 만들기:"],
  "sign_in.invalid": ["That is not a JWT with sub and tenant_id.", "sub와 tenant_id가 있는 JWT가 아닙니다."],
  "sign_in.code_invalid": ["This one-time link is invalid, expired or already used. Open a new link from the terminal, or paste a token.", "이 일회용 링크는 이미 사용되었거나 만료되었습니다. 터미널에서 새 링크를 가져오거나 토큰을 붙여 넣으세요."],
  "sign_in.rejected": ["The token is no longer accepted: {cause}", "토큰이 더 이상 유효하지 않습니다: {cause}"],

  "connection.idle": ["Ready", "준비됨"],
  "connection.connecting": ["Connecting", "연결 중"],
  "connection.live": ["Live", "실시간 연결"],
  "connection.broken": ["Reconnecting…", "다시 연결하는 중…"],
  "connection.closed": ["Ready", "준비됨"],
  "connection.lost": ["Connection lost", "연결이 끊어졌습니다"],
  "connection.unavailable": ["Service unreachable", "서비스에 연결할 수 없음"],
  "connection.retry": ["Try again", "다시 시도"],

  "view.lists": ["Runs", "실행 목록"],
  "view.run": ["Run", "실행"],
  "view.machine": ["Machine", "상태 머신"],
  "views": ["Views", "보기"],

  "inbox": ["Approvals", "승인 대기"],
  "inbox.empty": ["No request is waiting for a decision.", "결정을 기다리는 요청이 없습니다."],
  "inbox.queued": ["+{count} after it", "이후 {count}건"],
  "runs": ["Runs", "실행 목록"],
  "runs.empty": ["No runs yet.", "아직 실행이 없습니다."],
  "runs.more": ["Show more", "더 보기"],
  "runs.new": ["New run", "새 실행"],

  "prompt": ["Prompt", "프롬프트"],
  "prompt.hint": ["What should Aura do?", "무엇을 도와드릴까요?"],
  "prompt.send": ["Run", "실행"],
  "prompt.keys": ["Ctrl + Enter", "Ctrl + Enter"],
  "prompt.follow_up": ["Follow up in this thread", "이 대화에 이어서"],
  "context": ["Screen context", "화면 컨텍스트"],
  "context.help": ["A JSON object that describes the user's screen. It is data, never instructions.", "JSON 객체: 사용자가 보고 있는 화면입니다. 지시가 아닌 데이터로만 쓰입니다."],
  "context.invalid": ["This is not a JSON object: {cause}", "JSON 객체가 아닙니다: {cause}"],
  "empty.title": ["Start a run, or open one", "실행을 시작하거나 선택하세요"],
  "empty.help": ["The events of a run are shown here as soon as they are committed. The state machine shows the current state.", "실행의 모든 이벤트가 기록되는 즉시 여기에 표시되고, 옆의 상태 머신이 현재 위치를 보여 줍니다."],

  "run.cancel": ["Cancel run", "실행 취소"],
  "run.cancelling": ["Cancelling…", "취소하는 중…"],
  "run.label": ["Run", "실행"],
  "run.activity": ["Activity", "진행 내용"],
  "run.rejected": ["Rejected: {cause}", "거부됨: {cause}"],
  "run.usage": ["{tokens} tokens", "{tokens} 토큰"],
  "plan": ["Plan", "계획"],
  "plan.confidence": ["confidence {percent}", "확신도 {percent}"],
  "answer": ["Answer", "답변"],
  "answer.ready": ["The answer is complete.", "답변이 완성되었습니다."],
  "thought.analysis": ["Analysis", "분석"],
  "thought.planning": ["Planning", "계획"],
  "thought.reasoning": ["Reasoning", "추론"],
  "thought.decision": ["Decision", "결정"],
  "thought.reflection": ["Reflection", "성찰"],
  "thought.sources": ["Sources", "출처"],
  "tool.pending": ["requested", "요청됨"],
  "tool.executing": ["running", "실행 중"],
  "tool.completed": ["completed", "완료"],
  "tool.failed": ["failed", "실패"],
  "tool.rejected": ["not run", "실행 안 함"],
  "tool.arguments": ["Arguments", "인자"],
  "tool.result": ["Result", "결과"],
  "tool.error": ["Error", "오류"],
  "tool.truncated": ["Truncated to fit the stream.", "스트림에 맞게 줄였습니다."],
  "tool.show_full": ["Show in full", "전체 보기"],
  "none": ["none", "없음"],

  "approval": ["Approval needed", "승인이 필요합니다"],
  "approval.announcement": ["Approval needed: {message}", "승인이 필요합니다: {message}"],
  "approval.arguments": ["Exactly these arguments will run", "정확히 이 인자로 실행됩니다"],
  "approval.time_left": ["{time} left", "{time} 남음"],
  "approval.expired": ["deadline has passed", "시간 초과"],
  "approval.outcome_unknown": ["The service stopped while this was running, so it may already have happened once. Approving may do it a second time: check first.", "실행 도중 서비스가 중단되어 이 작업이 이미 한 번 수행되었을 수 있습니다. 승인하면 두 번 수행될 수 있으니 먼저 확인하세요."],
  "approval.approve": ["Approve", "승인"],
  "approval.edit": ["Edit", "수정"],
  "approval.reject": ["Reject", "거절"],
  "approval.editor": ["Arguments as JSON", "인자 (JSON)"],
  "approval.submit_edited": ["Approve these", "수정한 내용으로 승인"],
  "approval.reason": ["Reason", "사유"],
  "approval.skip": ["Continue without this step", "이 단계 없이 계속 진행"],
  "approval.submit_rejection": ["Reject", "거절"],
  "approval.back": ["Back", "뒤로"],
  "approval.sending": ["Sending…", "보내는 중…"],
  "approval.already_decided": ["This request was already decided: {status}.", "이미 결정된 요청입니다: {status}."],
  "approval.original_arguments": ["the arguments as requested", "요청된 인자"],
  "verdict.approved": ["Approved", "승인됨"],
  "verdict.skipped": ["Rejected; the run continued without the call", "거절됨 · 이 단계 없이 계속"],
  "verdict.rejected": ["Rejected", "거절됨"],
  "verdict.expired": ["No decision before the deadline", "시간 내에 결정되지 않음"],
  "verdict.cancelled": ["Withdrawn: the run ended", "철회됨: 실행이 종료됨"],
  "verdict.edited": ["arguments edited", "인자 수정됨"],
  "verdict.by": ["by {who}", "{who}"],
  "verdict.told": ["by {who}, as another service told", "{who} (다른 서비스가 알림)"],

  "machine": ["Machine", "상태 머신"],
  "machine.label": ["The state machine. Transitions that were taken can be focused.", "상태 머신. 지나온 전이에 초점을 둘 수 있습니다."],
  "machine.unavailable": ["The diagram could not be loaded: {cause}", "다이어그램을 불러오지 못했습니다: {cause}"],
  "machine.announcement": ["State: {state}", "상태: {state}"],
  "machine.not_taken": ["not taken in this run", "이 실행에서 지나가지 않음"],
  "reason.request_tools": ["The model requested tools", "모델이 도구를 요청함"],
  "reason.report_results": ["Every call has its outcome", "모든 호출의 결과가 나옴"],
  "reason.answer": ["The model began to answer", "모델이 답변을 시작함"],
  "reason.finish": ["The answer is complete", "답변이 완성됨"],
  "reason.ask_approval": ["A call needs a person's approval", "호출에 사람의 승인이 필요함"],
  "reason.approve": ["A person approved", "사람이 승인함"],
  "reason.decline": ["A person rejected; the run continues without the call", "사람이 거절함, 이 호출 없이 계속"],
  "reason.reject": ["A person rejected", "사람이 거절함"],
  "reason.expire": ["No decision before the deadline", "시간 내에 결정되지 않음"],
  "reason.fail": ["Something failed", "오류 발생"],
  "reason.cancel": ["Cancelled on request", "요청으로 중단됨"],

  "timeline": ["Timeline", "타임라인"],
  "timeline.empty": ["The timeline of a run is shown here.", "실행 시간이 어디에 쓰였는지 표시됩니다."],
  "timeline.total": ["{waited} of {total} waiting for people", "총 {total} 중 사람을 기다린 시간 {waited}"],
  "timeline.states": ["states", "상태"],
  "timeline.turn": ["model turn {turn}", "모델 호출 {turn}"],
  "timeline.retry": ["model turn {turn}, attempt {attempt}", "모델 호출 {turn}, {attempt}번째 시도"],
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
  "age": ["{time} ago", "{time} 전"],
  "now": ["now", "방금"],
};

let column = 0;

export const language = () => (column === 0 ? "en" : "ko");

export function setLanguage(code) {
  column = code === "ko" ? 1 : 0;
}

/** The text of `key` with its `{placeholders}` replaced. An unknown key (a state of a newer service) is its own text. */
export function t(key, values = {}) {
  const text = TEXTS[key]?.[column] ?? key.slice(key.indexOf(".") + 1);
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}

/** Set the text, label or placeholder of every element below `root` that has a `data-t…` attribute. */
export function translate(root) {
  for (const element of root.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
  for (const element of root.querySelectorAll("[data-t-label]")) element.setAttribute("aria-label", t(element.dataset.tLabel));
  for (const element of root.querySelectorAll("[data-t-placeholder]")) element.placeholder = t(element.dataset.tPlaceholder);
}
