package bench;

import jakarta.validation.constraints.Max;
import jakarta.validation.constraints.Min;
import jakarta.validation.constraints.NotNull;
import java.time.LocalDateTime;

/** `progress` and `description` alone; `planSteps` is unknown until Json makes it known. */
class TaskProgressUpdate {
    @NotNull
    @Min(0)
    @Max(100)
    private Integer progress;
    private String description;
    private String planSteps;

    public void setProgress(Integer progress) {
        this.progress = progress;
    }

    public void setDescription(String description) {
        this.description = description;
    }

    void applyTo(AgentTaskResponse task) {
        if (planSteps != null) {
            AgentStep.readAll(planSteps);
        }
        task.progress = progress;
        task.description = description == null ? task.description : description;
        task.planSteps = planSteps == null ? task.planSteps : planSteps;
        task.updatedAt = LocalDateTime.now();
    }
}
