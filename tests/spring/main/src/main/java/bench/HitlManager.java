package bench;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.time.Duration;
import java.util.LinkedHashMap;
import java.util.Map;
import org.springframework.data.redis.core.StringRedisTemplate;
import org.springframework.http.HttpStatus;
import org.springframework.stereotype.Service;

/** Reads a request as a map and writes it back whole, then stores and publishes the signal. */
@Service
class HitlManager {
    private static final Duration REQUEST_TTL = Duration.ofMinutes(30);
    private static final Duration SIGNAL_TTL = Duration.ofMinutes(5);
    private final StringRedisTemplate redis;
    private final ObjectMapper mapper;

    HitlManager(StringRedisTemplate redis, ObjectMapper mapper) {
        this.redis = redis;
        this.mapper = mapper;
    }

    record Decision(boolean isNew, Map<String, Object> data) {}

    String text(String requestId, String tenant) {
        return write(read(requestId, tenant));
    }

    String signal(String sessionId) {
        return redis.opsForValue().get("hitl:signal:" + sessionId);
    }

    Decision decide(String requestId, String tenant, String userId, String verdict, String reason) {
        Map<String, Object> request = read(requestId, tenant);
        Object before = request.get("status");
        if ("approved".equals(before) || "rejected".equals(before)) {
            return new Decision(false, data(request));
        }
        boolean isRejection = verdict.equals("rejected");
        request.put("status", verdict);
        request.put(verdict + "By", userId);
        request.put(verdict + "At", System.currentTimeMillis());
        if (isRejection) {
            request.put("reason", reason);
        }
        redis.opsForValue().set("hitl:request:" + requestId, write(request), REQUEST_TTL);
        Map<String, Object> signal = new LinkedHashMap<>();
        signal.put("type", isRejection ? "rejection" : "approval");
        signal.put("requestId", requestId);
        signal.put("status", verdict);
        signal.put("timestamp", System.currentTimeMillis() / 1000);
        if (isRejection) {
            signal.put("reason", reason);
        }
        Object sessionId = request.get("sessionId");
        redis.opsForValue().set("hitl:signal:" + sessionId, write(signal), SIGNAL_TTL);
        redis.convertAndSend("hitl:channel:" + sessionId, write(signal));
        return new Decision(true, data(request));
    }

    private static Map<String, Object> data(Map<String, Object> request) {
        Map<String, Object> data = new LinkedHashMap<>();
        for (String name : new String[] {"requestId", "sessionId", "status", "reason"}) {
            if (request.containsKey(name)) {
                data.put(name, request.get(name));
            }
        }
        return data;
    }

    @SuppressWarnings("unchecked")
    private Map<String, Object> read(String requestId, String tenant) {
        String text = redis.opsForValue().get("hitl:request:" + requestId);
        if (text == null) {
            throw new Refusal(HttpStatus.NOT_FOUND, "E1004", "요청한 리소스를 찾을 수 없습니다.");
        }
        try {
            Map<String, Object> request = mapper.readValue(text, LinkedHashMap.class);
            Object stored = request.get("tenantId");
            boolean isSame = stored instanceof Number number
                    ? number.longValue() == Long.parseLong(tenant) : tenant.equals(stored);
            if (!isSame) {
                throw new Refusal(HttpStatus.FORBIDDEN, "E2001", "권한이 없습니다.");
            }
            return request;
        } catch (JsonProcessingException unreadable) {
            throw new IllegalStateException(unreadable);
        }
    }

    private String write(Object value) {
        try {
            return mapper.writeValueAsString(value);
        } catch (JsonProcessingException unwritable) {
            throw new IllegalStateException(unwritable);
        }
    }
}
