package bench;

import com.fasterxml.jackson.annotation.JsonProperty;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.SerializationFeature;
import com.fasterxml.jackson.datatype.jsr310.JavaTimeModule;
import org.springframework.beans.factory.annotation.Value;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;

/** The service's mapper: a plain one, which, other than Spring's own, refuses fields that a class does not know. */
@Configuration
class Json {
    @Bean
    ObjectMapper objectMapper(@Value("${bench.accepts-plan-steps}") boolean acceptsPlanSteps) {
        ObjectMapper mapper = new ObjectMapper().registerModule(new JavaTimeModule())
                .disable(SerializationFeature.WRITE_DATES_AS_TIMESTAMPS);
        if (acceptsPlanSteps) {
            mapper.addMixIn(TaskProgressUpdate.class, WithPlanSteps.class);
        }
        return mapper;
    }

    /** Makes the field known, which has no setter. */
    private abstract static class WithPlanSteps {
        @JsonProperty
        String planSteps;
    }
}
