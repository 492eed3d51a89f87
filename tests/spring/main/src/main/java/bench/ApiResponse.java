package bench;

import com.fasterxml.jackson.annotation.JsonInclude;
import java.time.LocalDateTime;

/** The envelope of every answer; what is null is left out. */
@JsonInclude(JsonInclude.Include.NON_NULL)
record ApiResponse<T>(String status, String message, T data, String errorCode, boolean success,
        LocalDateTime timestamp, String traceId, Object agentMetadata, String gatewayRequestId, String auditId) {

    static <T> ApiResponse<T> success(T data) {
        return success("요청이 성공적으로 처리되었습니다.", data);
    }

    static <T> ApiResponse<T> success(String message, T data) {
        return new ApiResponse<>("SUCCESS", message, data, null, true, LocalDateTime.now(), null, null, null, null);
    }

    static ApiResponse<Void> error(String code, String message) {
        return new ApiResponse<>("ERROR", message, null, code, false, LocalDateTime.now(), null, null, null, null);
    }
}
