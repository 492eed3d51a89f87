package bench;

import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.concurrent.atomic.AtomicLong;
import java.util.stream.Collectors;
import org.reactivestreams.Publisher;
import org.springframework.cloud.gateway.filter.GlobalFilter;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.core.annotation.Order;
import org.springframework.core.io.buffer.DataBuffer;
import org.springframework.core.io.buffer.DataBufferUtils;
import org.springframework.http.HttpHeaders;
import org.springframework.http.MediaType;
import org.springframework.http.server.reactive.ServerHttpRequest;
import org.springframework.http.server.reactive.ServerHttpResponse;
import org.springframework.http.server.reactive.ServerHttpResponseDecorator;
import org.springframework.web.server.ServerWebExchange;
import reactor.core.publisher.Flux;
import reactor.core.publisher.Mono;

/** What the gateway does to the answers of stream requests. */
@Configuration
class StreamFilters {
    private final AtomicLong count = new AtomicLong();

    /** Sets the headers that keep proxies from buffering, and adds those that are missing. */
    @Bean
    @Order(-50)
    GlobalFilter streamHeaders() {
        return (exchange, chain) -> {
            if (isStream(exchange.getRequest())) {
                exchange.getResponse().beforeCommit(() -> Mono.fromRunnable(() -> addHeaders(exchange)));
            }
            return chain.filter(exchange);
        };
    }

    /** Puts a generated id before the blocks of answers. Streams pass: they are written with writeAndFlushWith. */
    @Bean
    @Order(-40)
    GlobalFilter generatedIds() {
        return (exchange, chain) -> {
            if (!isStream(exchange.getRequest())) {
                return chain.filter(exchange);
            }
            return chain.filter(exchange.mutate().response(withIds(exchange.getResponse())).build());
        };
    }

    private static boolean isStream(ServerHttpRequest request) {
        String accept = String.join(",", request.getHeaders().getOrEmpty(HttpHeaders.ACCEPT));
        return accept.contains(MediaType.TEXT_EVENT_STREAM_VALUE) || request.getPath().value().contains("/stream");
    }

    private static void addHeaders(ServerWebExchange exchange) {
        HttpHeaders headers = exchange.getResponse().getHeaders();
        headers.set("X-Accel-Buffering", "no");
        headers.addIfAbsent(HttpHeaders.CONTENT_TYPE, MediaType.TEXT_EVENT_STREAM_VALUE);
        headers.addIfAbsent(HttpHeaders.CACHE_CONTROL, "no-cache");
        headers.addIfAbsent(HttpHeaders.CONNECTION, "keep-alive");
    }

    private ServerHttpResponse withIds(ServerHttpResponse response) {
        return new ServerHttpResponseDecorator(response) {
            @Override
            public Mono<Void> writeWith(Publisher<? extends DataBuffer> body) {
                return super.writeWith(Flux.from(body).map(buffer -> {
                    String text = buffer.toString(StandardCharsets.UTF_8);
                    DataBufferUtils.release(buffer);
                    return bufferFactory().wrap(addIds(text).getBytes(StandardCharsets.UTF_8));
                }));
            }
        };
    }

    private String addIds(String text) {
        if (text.contains("id:")) {
            return text;
        }
        return Arrays.stream(text.split("(?<=\n\n)")).map(block -> "id: " + nextId() + "\n" + block)
                .collect(Collectors.joining());
    }

    private long nextId() {
        return System.currentTimeMillis() * 1000 + count.incrementAndGet() % 1000;
    }
}
