"""Chaos on the emulated AWS: the real template, its functions killed, faults in its services, and the same checker.

apps (the SDK) --> proxy --> API Gateway --> front --> SQS --> worker --> Bedrock (throttled, broken, stalled; reports
                (reads along,  (deletes    (killed)  (doubles,  (killed)    each of its runs)
                 cuts, stalls) connections)           redelivers)    |
                                                                DynamoDB ··· janitor ···> PostgreSQL (crashed, paused)
"""
