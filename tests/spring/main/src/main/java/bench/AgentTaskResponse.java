package bench;

import java.time.LocalDateTime;

/** A task as the service keeps and shows it. */
class AgentTaskResponse {
    enum Status { REQUESTED, IN_PROGRESS, COMPLETED, FAILED }

    public String taskId;
    public String userId;
    public String tenantId;
    public String taskType;
    public Status status = Status.REQUESTED;
    public int progress;
    public String description;
    public String resultData;
    public String planSteps;
    public String errorMessage;
    public LocalDateTime startedAt;
    public LocalDateTime completedAt;
    public LocalDateTime createdAt = LocalDateTime.now();
    public LocalDateTime updatedAt = createdAt;

    void become(Status status) {
        this.status = status;
        updatedAt = LocalDateTime.now();
        if (status == Status.IN_PROGRESS) {
            startedAt = updatedAt;
        } else {
            completedAt = updatedAt;
        }
    }
}
