"""CloudWatch: metrics that functions write into their logs, in the embedded format, are counted."""

import json
from typing import Any

from answerback_aws.emulator.patches import private, replace


def patch() -> None:
    """Apply. Raises: Moved."""

    def append(stream: Any, events: Any) -> None:
        append_was(stream, events)
        for event in events:
            if '"CloudWatchMetrics"' in event["message"]:
                _record(json.loads(event["message"]))

    private("services.cloudwatch", "record_metric")
    append_was = replace("services.cloudwatch_logs", "_append_log_events", append)


def _record(line: Any) -> None:
    for directive in line["_aws"]["CloudWatchMetrics"]:
        for names in directive["Dimensions"]:
            dimensions = {name: line[name] for name in names}
            for metric in directive["Metrics"]:
                values = line[metric["Name"]]
                for value in values if isinstance(values, list) else [values]:
                    private("services.cloudwatch", "record_metric")(
                        directive["Namespace"], metric["Name"], value, metric.get("Unit", "None"), dimensions
                    )
