package bench;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.util.List;
import java.util.Map;

/** One step of a plan. Times are Unix seconds; the result is an object, not the text of one. */
record AgentStep(String id, String title, String description, Status status, Double confidence,
        Map<String, Object> result, Long startedAt, Long completedAt) {
    @SuppressWarnings("java:S115") // the names are those of the JSON
    enum Status { pending, in_progress, completed, failed }

    private static final ObjectMapper STRICT = new ObjectMapper();

    /** Reads a plan. Fails for a field, a status or a type that this class does not have. */
    static List<AgentStep> readAll(String json) {
        try {
            return List.of(STRICT.readValue(json, AgentStep[].class));
        } catch (JsonProcessingException error) {
            throw new IllegalArgumentException("planSteps: " + error.getOriginalMessage(), error);
        }
    }
}
