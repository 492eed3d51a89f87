"""`aura chaos`: real nodes on a real Redis, whose processes and connections are broken while runs proceed.

A seed determines the plan (`plan`, `faults`). The plan is carried out (`cluster` with its `node`s, `storage`, `link`,
`clients`, `environment` with the services that the tools need, `experiment`), and the outcome is compared with the
expected one (`takeover`, `verdict`, `report`). All processes listen on 127.0.0.1; no file and no process is left
behind.
"""
