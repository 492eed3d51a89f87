package bench;

import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import org.springframework.http.HttpStatus;
import org.springframework.http.ResponseEntity;
import org.springframework.web.bind.MethodArgumentNotValidException;
import org.springframework.web.bind.annotation.ExceptionHandler;
import org.springframework.web.bind.annotation.RestControllerAdvice;

/** Turns errors into answers. A body with an unknown field ends in the last handler: 500. */
@RestControllerAdvice
class ErrorHandler {
    private static final Logger log = LoggerFactory.getLogger(ErrorHandler.class);

    @ExceptionHandler
    ResponseEntity<ApiResponse<Void>> handle(Refusal refusal) {
        return answer(refusal.status, refusal.code, refusal.getMessage());
    }

    @ExceptionHandler
    ResponseEntity<ApiResponse<Void>> handle(MethodArgumentNotValidException invalid) {
        return answer(HttpStatus.BAD_REQUEST, "E4000", invalid.getFieldErrors().toString());
    }

    @ExceptionHandler
    ResponseEntity<ApiResponse<Void>> handle(Exception error) {
        log.error("{}", error.getMessage());
        return answer(HttpStatus.INTERNAL_SERVER_ERROR, "E1000", "내부 서버 오류가 발생했습니다.");
    }

    private static ResponseEntity<ApiResponse<Void>> answer(HttpStatus status, String code, String message) {
        return ResponseEntity.status(status).body(ApiResponse.error(code, message));
    }
}
