"""What frames of the event log have in common: the dictionary with which they are compressed.

A log that is stored can be read only with the dictionary that it was written with. So the text of a number **never
changes**. A better one gets the next number, and the earlier one stays for as long as there can be logs of it.
"""

from __future__ import annotations

# What stands at the end of a dictionary costs the fewest bits: so the frames of every run come last. A frame has its
# fields twice; the second time they are found in the frame itself.
_FRAMES = (
    '"confidenceSource":"logprobs","confidenceSource":"model","sources":[{"title":"","name":""}]'
    '"warnings":[{"code":"","field":"","message":""}],"outcomeUnknown":true,"truncated":true,"cachedTokens":'
    'event: error\ndata: {"type":"error","version":"1.0","timestamp":17,"sessionId":"session_","message":"HITL 승인'
    ' 요청이 300초 내에 응답되지 않아 작업이 중단되었습니다.요청에 따라 작업이 취소되었습니다.","errorType":"Reject'
    'ionError","errorCode":"E2001","retryable":false,"error":"TimeoutError","errorCode":"E5001","retryable":true,"e'
    'rrorType":"ModelError","errorCode":"E5000"'
    '"status":"rejected","status":"timed_out","status":"cancelled","status":"failed","status":"skipped"'
    '"title":"실패","title":"거절됨","title":"시간 초과","title":"취소됨"'
    '"trigger":"cancel"},"id":"-cancelled""trigger":"fail"},"id":"-failed""trigger":"expire"},"id":"-timed_out"'
    '"trigger":"reject"},"id":"-rejected""trigger":"decline"},"id":"-tool"'
    'event: hitl\ndata: {"type":"hitl","version":"1.0","timestamp":17,"requestId":"req-","sessionId":"session_","ac'
    'tionType":"","message":"하시겠습니까?","context":{"},"requiresApproval":true,"stepId":"call_","expiresAt":17,"'
    'timeoutSeconds":300,"argumentsDigest":"","position":1,"total":1,"warnings":[],"action":"","params":{"},"data":'
    '{"timestamp":17'
    'event: plan_step\ndata: {"type":"plan_step","version":"1.0","timestamp":17,"sessionId":"session_","stepId":"ca'
    'll_","title":"","description":"","status":"pending","confidence":0.5,"confidenceSource":"none","order":1,"id":'
    '"call_","data":{"timestamp":17'
    'event: plan_step_update\ndata: {"type":"plan_step_update","version":"1.0","timestamp":17,"sessionId":"session_'
    '","stepId":"call_","status":"in_progress","progress":0.5,"description":"","id":"call_","data":{"timestamp":17'
    'event: tool_execution\ndata: {"type":"tool_execution","version":"1.0","timestamp":17,"sessionId":"session_","t'
    'oolName":"","toolArgs":{"},"status":"executing","result":null,"error":null,"requiresApproval":false,"toolCallI'
    'd":"call_","tool":"","params":{"},"parameters":{"},"stepId":"call_","data":{"timestamp":17,"status":"completed'
    '","result":{","error":null,"requiresApproval":true,"toolCallId":"call_","status":"pending","result":null,"erro'
    'r":null,"requiresApproval":'
    'event: start\ndata: {"type":"start","version":"1.0","timestamp":17,"message":"요청을 받았습니다.","sessionId":'
    '"session_","threadId":"session_","state":"planning","data":{"timestamp":17,"message":"요청을 받았습니다.","ses'
    'sionId":'
    'event: thought\ndata: {"type":"thought","version":"1.0","timestamp":17,"sessionId":"session_","thoughtType":"a'
    'nalysis","content":"사용자의 요청을 분석하고 있습니다...","sources":[],"data":{"timestamp":17,"thoughtType":"a'
    'nalysis","content":"사용자의 요청을 분석하고 있습니다...","sources":[]}}\n\n"thoughtType":"reasoning","content'
    '":"'
    'event: timeline_step_update\ndata: {"type":"timeline_step_update","version":"1.0","timestamp":17,"sessionId":"'
    'session_","stepId":"1-tool","title":"도구 실행","status":"in_progress","progress":0.0,"metadata":{"from":"plan'
    'ning","to":"tool","trigger":"request_tools"},"id":"1-tool","data":{"timestamp":17,"stepId":"1-tool","title":"'
    '도구 실행"'
    '","stepId":"2-awaiting_approval","title":"승인 대기","status":"in_progress","progress":0.0,"metadata":{"from":'
    '"tool","to":"awaiting_approval","trigger":"ask_approval"},"id":"2-awaiting_approval"'
    '","stepId":"3-tool","title":"도구 실행","status":"in_progress","progress":0.0,"metadata":{"from":"awaiting_app'
    'roval","to":"tool","trigger":"approve"},"id":"3-tool"'
    '","stepId":"2-planning","title":"계획 수립","status":"in_progress","progress":1.0,"metadata":{"from":"tool","t'
    'o":"planning","trigger":"report_results"},"id":"2-planning"'
    '","stepId":"1-content","title":"답변 작성","status":"in_progress","progress":0.0,"metadata":{"from":"planning"'
    ',"to":"content","trigger":"answer"},"id":"1-content","data":{"timestamp":17'
    '","stepId":"2-done","title":"완료","status":"completed","progress":1.0,"metadata":{"from":"content","to":"done'
    '","trigger":"finish"},"id":"2-done","data":{"timestamp":17'
    'event: end\ndata: {"type":"end","version":"1.0","timestamp":17,"sessionId":"session_","message":"작업이 완료되'
    '었습니다.","status":"completed","usage":{"promptTokens":,"completionTokens":,"totalTokens":},"data":{"timestam'
    'p":17,"message":"작업이 완료되었습니다.","status":"completed","usage":{"promptTokens":}}}\n\ndata: [DONE]\n\n'
    'event: content\ndata: {"type":"content","version":"1.0","timestamp":17,"sessionId":"session_","content":"","fo'
    'rmat":"markdown","chunk":false,"data":{"timestamp":17,"content":"","format":"markdown","chunk":true,"data":{"t'
    'imestamp":17,"content":"","format":"markdown","chunk":true}}\n\nevent: content\ndata: {"type":"content","versi'
    'on":"1.0","timestamp":17,"sessionId":"session_'
)

DICTIONARIES: dict[int, bytes] = {1: _FRAMES.encode()}
"""The dictionaries by their numbers."""
