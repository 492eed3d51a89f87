package bench;

import bench.AgentTaskResponse.Status;
import jakarta.validation.Valid;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.ConcurrentHashMap;
import java.util.function.Consumer;
import org.springframework.http.HttpStatus;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.PatchMapping;
import org.springframework.web.bind.annotation.PathVariable;
import org.springframework.web.bind.annotation.PostMapping;
import org.springframework.web.bind.annotation.RequestBody;
import org.springframework.web.bind.annotation.RequestMapping;
import org.springframework.web.bind.annotation.RequestParam;
import org.springframework.web.bind.annotation.ResponseStatus;
import org.springframework.web.bind.annotation.RestController;

/** Agent tasks, kept in memory. */
@RestController
@RequestMapping("/main/agent/tasks")
class TaskController {
    private final Map<String, AgentTaskResponse> tasks = new ConcurrentHashMap<>();
    private final Map<String, String> inputs = new ConcurrentHashMap<>();

    @PostMapping
    @ResponseStatus(HttpStatus.CREATED)
    ApiResponse<AgentTaskResponse> create(@Valid @RequestBody AgentTaskRequest request) {
        AgentTaskResponse task = new AgentTaskResponse();
        task.taskId = UUID.randomUUID().toString();
        task.userId = request.userId();
        task.tenantId = request.tenantId();
        task.taskType = request.taskType();
        task.description = request.description();
        tasks.put(task.taskId, task);
        inputs.put(task.taskId, request.inputData() == null ? "" : request.inputData());
        return ApiResponse.success(task);
    }

    @GetMapping("/{taskId}")
    ApiResponse<AgentTaskResponse> get(@PathVariable String taskId) {
        return change(taskId, task -> {});
    }

    /** For the tests alone: no class of the platform shows the input. */
    @GetMapping("/{taskId}/input")
    ApiResponse<String> input(@PathVariable String taskId) {
        return ApiResponse.success(inputs.get(taskId));
    }

    @GetMapping
    ApiResponse<List<AgentTaskResponse>> list(@RequestParam String userId, @RequestParam String tenantId) {
        return ApiResponse.success(tasks.values().stream()
                .filter(task -> task.userId.equals(userId) && task.tenantId.equals(tenantId)).toList());
    }

    @PostMapping("/{taskId}/start")
    ApiResponse<AgentTaskResponse> start(@PathVariable String taskId) {
        return change(taskId, task -> task.become(Status.IN_PROGRESS));
    }

    @PatchMapping("/{taskId}/progress")
    ApiResponse<AgentTaskResponse> progress(@PathVariable String taskId, @Valid @RequestBody TaskProgressUpdate update) {
        return change(taskId, update::applyTo);
    }

    @PostMapping("/{taskId}/complete")
    ApiResponse<AgentTaskResponse> complete(@PathVariable String taskId, @RequestBody String result) {
        return change(taskId, task -> {
            task.become(Status.COMPLETED);
            task.progress = 100;
            task.resultData = result;
        });
    }

    @PostMapping("/{taskId}/fail")
    ApiResponse<AgentTaskResponse> fail(@PathVariable String taskId, @RequestParam String errorMessage) {
        return change(taskId, task -> {
            task.become(Status.FAILED);
            task.errorMessage = errorMessage;
        });
    }

    private ApiResponse<AgentTaskResponse> change(String taskId, Consumer<AgentTaskResponse> change) {
        AgentTaskResponse task = tasks.get(taskId);
        if (task == null) {
            throw new Refusal(HttpStatus.NOT_FOUND, "E1004", "요청한 리소스를 찾을 수 없습니다.");
        }
        change.accept(task);
        return ApiResponse.success(task);
    }
}
