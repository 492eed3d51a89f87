package bench;

import com.fasterxml.jackson.databind.ObjectMapper;
import java.util.Base64;
import org.springframework.cloud.gateway.filter.GatewayFilterChain;
import org.springframework.cloud.gateway.filter.GlobalFilter;
import org.springframework.core.Ordered;
import org.springframework.http.HttpHeaders;
import org.springframework.http.HttpStatus;
import org.springframework.http.server.reactive.ServerHttpRequest;
import org.springframework.stereotype.Component;
import org.springframework.web.server.ServerWebExchange;
import reactor.core.publisher.Mono;

/** Requires a tenant, which must be a number or is replaced by the number in the token, and adds the DWP headers. */
@Component
class TenantFilter implements GlobalFilter, Ordered {
    private static final String TENANT = "X-Tenant-ID";
    private final ObjectMapper mapper = new ObjectMapper();

    @Override
    public int getOrder() {
        return -200;
    }

    @Override
    public Mono<Void> filter(ServerWebExchange exchange, GatewayFilterChain chain) {
        HttpHeaders headers = exchange.getRequest().getHeaders();
        String tenant = headers.getFirst(TENANT);
        if (tenant != null && !isNumber(tenant)) {
            tenant = tenantOfToken(headers.getFirst(HttpHeaders.AUTHORIZATION));
        }
        if (tenant == null || !isNumber(tenant)) {
            exchange.getResponse().setStatusCode(HttpStatus.BAD_REQUEST);
            return exchange.getResponse().setComplete();
        }
        String number = tenant;
        ServerHttpRequest request = exchange.getRequest().mutate().headers(sent -> {
            sent.set(TENANT, number);
            sent.addIfAbsent("X-DWP-Source", "FRONTEND");
            sent.addIfAbsent("X-DWP-Caller-Type", "USER");
        }).build();
        return chain.filter(exchange.mutate().request(request).build());
    }

    private static boolean isNumber(String text) {
        return text.matches("\\d+");
    }

    /** The claim as it stands in the token: its signature is the services' affair. */
    private String tenantOfToken(String authorization) {
        try {
            String payload = authorization.split("\\.")[1];
            return mapper.readTree(Base64.getUrlDecoder().decode(payload)).path("tenant_id").asText();
        } catch (Exception unreadable) {
            return null;
        }
    }
}
