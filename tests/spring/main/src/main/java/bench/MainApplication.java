package bench;

import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;

/** The part of the Main Service that Aura speaks with: approvals and agent tasks. */
@SpringBootApplication
public class MainApplication {
    public static void main(String[] arguments) {
        SpringApplication.run(MainApplication.class, arguments);
    }
}
