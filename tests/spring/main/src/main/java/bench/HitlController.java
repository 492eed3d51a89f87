package bench;

import java.util.Map;
import org.springframework.data.redis.core.RedisTemplate;
import org.springframework.http.HttpStatus;
import org.springframework.http.ResponseEntity;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.PathVariable;
import org.springframework.web.bind.annotation.PostMapping;
import org.springframework.web.bind.annotation.RequestBody;
import org.springframework.web.bind.annotation.RequestHeader;
import org.springframework.web.bind.annotation.RequestMapping;
import org.springframework.web.bind.annotation.RestController;

/** Approvals, as the gateway's route `hitl-api` reaches them. */
@RestController
@RequestMapping("/aura/hitl")
class HitlController {
    private final HitlManager manager;
    private final RedisTemplate<Object, Object> withDefaultSerializers;

    HitlController(HitlManager manager, RedisTemplate<Object, Object> redisTemplate) {
        this.manager = manager;
        this.withDefaultSerializers = redisTemplate;
    }

    @GetMapping("/requests/{requestId}")
    ApiResponse<String> request(@PathVariable String requestId, @RequestHeader("X-Tenant-ID") String tenant) {
        return ApiResponse.success("Approval request retrieved", manager.text(requestId, tenant));
    }

    @GetMapping("/signals/{sessionId}")
    ApiResponse<String> signal(@PathVariable String sessionId) {
        String signal = manager.signal(sessionId);
        return ApiResponse.success(signal == null ? "No signal found for session" : "Signal retrieved", signal);
    }

    @PostMapping("/approve/{requestId}")
    ResponseEntity<?> approve(@PathVariable String requestId, @RequestHeader("X-Tenant-ID") String tenant,
            @RequestBody Map<String, String> body) {
        return decide(requestId, tenant, body, "approved", "Request approved successfully");
    }

    @PostMapping("/reject/{requestId}")
    ResponseEntity<?> reject(@PathVariable String requestId, @RequestHeader("X-Tenant-ID") String tenant,
            @RequestBody Map<String, String> body) {
        return decide(requestId, tenant, body, "rejected", "Request rejected");
    }

    /** Another service's sender, whose template nobody has given string serializers: keys and messages are JDK objects. */
    @PostMapping("/default-serializer/{sessionId}")
    ApiResponse<Void> publishWithDefaultSerializer(@PathVariable String sessionId, @RequestBody String signal) {
        withDefaultSerializers.opsForValue().set("hitl:signal:" + sessionId, signal);
        withDefaultSerializers.convertAndSend("hitl:channel:" + sessionId, signal);
        return ApiResponse.success(null);
    }

    private ResponseEntity<?> decide(String requestId, String tenant, Map<String, String> body, String verdict,
            String message) {
        String userId = body.get("userId");
        if (userId == null || userId.isBlank()) {
            throw new Refusal(HttpStatus.BAD_REQUEST, "E4000", "userId is required");
        }
        String reason = body.getOrDefault("reason", "User rejected");
        HitlManager.Decision decision = manager.decide(requestId, tenant, userId, verdict, reason);
        if (!decision.isNew()) {
            return ResponseEntity.status(HttpStatus.CONFLICT).body(
                    ApiResponse.success("Request was already processed (idempotent)", decision.data()));
        }
        return ResponseEntity.ok(ApiResponse.success(message, decision.data()));
    }
}
