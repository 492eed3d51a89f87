package bench;

import org.springframework.http.HttpStatus;

/** A request that is answered with this status and error code. */
class Refusal extends RuntimeException {
    final HttpStatus status;
    final String code;

    Refusal(HttpStatus status, String code, String message) {
        super(message);
        this.status = status;
        this.code = code;
    }
}
