"""Chaos on the emulated AWS: the real template, its functions killed, its services struck, and the same ledger.

apps (the SDK) --> proxy --> API Gateway --> front --> SQS --> worker --> Bedrock (throttled, broken, stalled; tells
                (reads along,  (deletes    (killed)  (doubles,  (killed)    each of its runs)
                 cuts, stalls) connections)           hands out)    |
                                                                DynamoDB ··· janitor ···> PostgreSQL (crashed, paused)
"""
