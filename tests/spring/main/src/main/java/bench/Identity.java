package bench;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.Base64;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;
import org.springframework.beans.factory.annotation.Value;
import org.springframework.http.HttpStatus;
import org.springframework.stereotype.Component;
import org.springframework.web.servlet.HandlerInterceptor;
import org.springframework.web.servlet.config.annotation.InterceptorRegistry;
import org.springframework.web.servlet.config.annotation.WebMvcConfigurer;

/** Requires a token whose tenant and user are those of the headers. Roles are not looked at. */
@Component
class Identity implements HandlerInterceptor, WebMvcConfigurer {
    private final ObjectMapper mapper = new ObjectMapper();
    private final byte[] secret;

    Identity(@Value("${bench.jwt-secret}") String secret) {
        this.secret = secret.getBytes(StandardCharsets.UTF_8);
    }

    @Override
    public void addInterceptors(InterceptorRegistry registry) {
        registry.addInterceptor(this).addPathPatterns("/aura/**", "/main/**");
    }

    @Override
    public boolean preHandle(HttpServletRequest request, HttpServletResponse response, Object handler) {
        String authorization = request.getHeader("Authorization");
        if (authorization == null || !authorization.startsWith("Bearer ")) {
            throw new Refusal(HttpStatus.UNAUTHORIZED, "E2000", "인증이 필요합니다.");
        }
        JsonNode claims = claims(authorization.substring("Bearer ".length()));
        requireSame(claims.path("tenant_id").asText(), request.getHeader("X-Tenant-ID"));
        requireSame(claims.path("sub").asText(), request.getHeader("X-User-ID"));
        return true;
    }

    private JsonNode claims(String token) {
        try {
            int dot = token.lastIndexOf('.');
            Mac mac = Mac.getInstance("HmacSHA256");
            mac.init(new SecretKeySpec(secret, "HmacSHA256"));
            byte[] expected = mac.doFinal(token.substring(0, dot).getBytes(StandardCharsets.US_ASCII));
            if (MessageDigest.isEqual(expected, Base64.getUrlDecoder().decode(token.substring(dot + 1)))) {
                return mapper.readTree(Base64.getUrlDecoder().decode(token.substring(0, dot).split("\\.")[1]));
            }
        } catch (Exception unreadable) {
            // refused below, as a token with another signature is
        }
        throw new Refusal(HttpStatus.UNAUTHORIZED, "E2003", "유효하지 않은 토큰입니다.");
    }

    private static void requireSame(String claimed, String header) {
        if (!claimed.equals(header)) {
            throw new Refusal(HttpStatus.FORBIDDEN, "E2001", "권한이 없습니다.");
        }
    }
}
