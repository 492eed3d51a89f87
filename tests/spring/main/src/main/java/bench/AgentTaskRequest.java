package bench;

import jakarta.validation.constraints.NotBlank;

record AgentTaskRequest(@NotBlank String taskType, @NotBlank String userId, @NotBlank String tenantId,
        String description, String inputData) {}
